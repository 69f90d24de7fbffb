# A NixOS configuration from modules, with the arguments and the result of the
# real file of this name.
evalConfigArgs@{ system ? builtins.currentSystem
, pkgs ? null
, baseModules ? import ../modules/module-list.nix
, extraArgs ? { }
, specialArgs ? { }
, modules
, modulesLocation ? (builtins.unsafeGetAttrPos "modules" evalConfigArgs).file or null
, check ? true
, prefix ? [ ]
, lib ? import ../../lib
, extraModules ? [ ]
}:
let
  pkgsModule = rec {
    _file = ./eval-config.nix;
    key = _file;
    config = lib.mkMerge (
      lib.optional (system != null) { nixpkgs.system = lib.mkDefault system; }
      ++ lib.optional (pkgs != null) { nixpkgs.pkgs = pkgs; }
    );
  };

  userModules =
    (if modulesLocation == null then modules else map (lib.setDefaultModuleLocation modulesLocation) modules)
    ++ lib.optional (evalConfigArgs ? extraArgs) { config._module.args = extraArgs; }
    ++ lib.optional (evalConfigArgs ? check) { config._module.check = lib.mkDefault check; };

  noUserModules = lib.evalModules {
    inherit prefix;
    class = "nixos";
    specialArgs = { modulesPath = toString ../modules; } // specialArgs;
    modules = baseModules ++ extraModules ++ [
      pkgsModule
      { config._module.args = { inherit noUserModules baseModules extraModules modules; }; }
    ];
  };

  withExtraAttrs = configuration: configuration // {
    inherit extraArgs lib;
    inherit (configuration._module.args) pkgs;
    extendModules = args: withExtraAttrs (configuration.extendModules args);
  };
in
withExtraAttrs (noUserModules.extendModules { modules = userModules; })
