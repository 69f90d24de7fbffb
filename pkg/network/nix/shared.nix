# nixos/lib/eval-config.nix, with one package set for all machines whose own would
# be the same. A fifth to a third of evaluating a machine is its package set.
#
# nixpkgs.pkgs would share it as well, but with effects of its own: it counts as
# defined, a machine that defines it too is in conflict, assertions about
# platforms are off, and what config and overlays say is the machine's to lose.
# Here nothing is defined. NixOS' module that imports nixpkgs for a machine is
# given an import that remembers, and everything it does with the result stays.
nixpkgs:

let
  lib = import (nixpkgs + "/lib");
  path = nixpkgs + "/nixos/modules/misc/nixpkgs.nix";
  baseModules = import (nixpkgs + "/nixos/modules/module-list.nix");

  # As the module has it after elaboration. A platform is its attributes: one
  # with gcc.arch is another.
  platforms = lib.genAttrs lib.systems.doubles.all (system:
    let platform = lib.systems.elaborate { inherit system; };
    in {
      data = data platform;
      pkgs = import nixpkgs { localSystem = platform; crossSystem = null; config = { }; overlays = [ ]; };
    });

  # Functions are never equal; those of a platform follow from its data.
  data = lib.filterAttrs (_: value: !builtins.isFunction value);

  plain = { config ? null, overlays ? null, localSystem ? { }, crossSystem ? null, ... }@args:
    removeAttrs args [ "config" "overlays" "localSystem" "crossSystem" ] == { }
    && config == { } && overlays == [ ] && crossSystem == null
    && platforms ? ${localSystem.system or ""}
    && data localSystem == platforms.${localSystem.system}.data;

  importNixpkgs = args: if plain args then platforms.${args.localSystem.system}.pkgs else import nixpkgs args;

  # Under the key and the name of the module it replaces, and in its place.
  module =
    let original = builtins.scopedImport {
      import = file: if builtins.isPath file && file == nixpkgs then importNixpkgs else import file;
    } path;
    in lib.setFunctionArgs
      (args: { key = toString path; _file = toString path; } // original args)
      (lib.functionArgs original);
in
{ modules, ... }@args:
import (nixpkgs + "/nixos/lib/eval-config.nix") (args // {
  baseModules = map (m: if m == path then module else m) baseModules;
  # The manual is made of the files themselves.
  modules = modules ++ [ { _file = "nx/shared"; _module.args.baseModules = lib.mkForce baseModules; } ];
})
