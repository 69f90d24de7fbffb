# The package set: the builders that modules use, and toy packages.
{ system ? null
, localSystem ? { system = if system != null then system else builtins.currentSystem; }
, crossSystem ? null
, config ? { }
, overlays ? [ ]
, ...
}@args:
let
  lib = import ./lib;
  buildPlatform = lib.systems.elaborate localSystem;
  hostPlatform = if crossSystem == null then buildPlatform else lib.systems.elaborate crossSystem;

  base = final: {
    _type = "pkgs";
    inherit lib overlays;
    path = ./.;
    config = { allowUnfree = false; allowBroken = false; } // (if lib.isFunction config then config { inherit lib; pkgs = final; } else config);
    inherit (hostPlatform) system;

    appendOverlays = more: if more == [ ] then final else import ./. (args // { overlays = overlays ++ more; });
    extend = overlay: final.appendOverlays [ overlay ];
    pkgs = final;
    buildPackages = final;
    callPackage = final.newScope { };
    newScope = scope: f: given:
      let
        function = if lib.isFunction f then f else import f;
        found = lib.mapAttrs (name: optional: (final // scope).${name} or (lacking name))
          (lib.filterAttrs (name: optional: !optional || final ? ${name} || scope ? ${name}) (lib.functionArgs function));
      in
      function (found // given);
  };
  lacking = name: throw "the stand-in nixpkgs has no package \"${name}\"";

  stages = [
    (import ./pkgs/builders.nix { inherit lib buildPlatform hostPlatform; })
    (import ./pkgs/packages.nix { inherit lib lacking; })
  ] ++ overlays;
in
lib.fix (lib.foldl' (lib.flip lib.extends) base stages)
