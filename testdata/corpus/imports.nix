# How modules are found, told apart and left out.
{ lib }:
let
  inherit (lib) mkOption types;
  eval = modules: (lib.evalModules { inherit modules; }).config;
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  list = { options.l = mkOption { type = types.listOf types.str; default = [ ]; }; };
  names = [ "a" "b" ];
in
{
  samePathOnce = (eval [ ./modules/counter.nix ./modules/counter.nix ]).sum;
  samePathThroughTwo = (eval [ ./modules/imports-counter.nix ./modules/data.nix ]).sum;
  pathAsString = (eval [ ./modules/counter.nix (toString ./modules/counter.nix) ]).sum;
  valuesAreNotTheSame = (eval [ list { l = [ "x" ]; } { l = [ "x" ]; } ]).l;
  sameKey = (eval [ list { key = "k"; l = [ "first" ]; } { key = "k"; l = [ "second" ]; } ]).l;
  computedImports = (eval [ list { imports = map (name: { l = [ name ]; }) names; } ]).l;
  functionImport = (eval [ list { imports = [ ({ lib, ... }: { l = lib.optional true "f"; }) ]; } ]).l;
  deep = (eval [ list { imports = [ { imports = [ { imports = [ { l = [ "deep" ]; } ]; } ]; } ]; } ]).l;
  disabledPath = (eval [ ./modules/imports-counter.nix { disabledModules = [ ./modules/counter.nix ]; options.sum = mkOption { type = types.listOf types.int; }; } ]).sum;
  disabledFromImport = (eval [ ./modules/data.nix { imports = [ { disabledModules = [ ./modules/data.nix ]; } ]; options.sum = mkOption { default = "replaced"; }; } ]).sum;
  disabledByModulesPath = (lib.evalModules {
    modules = [ ./modules/imports-counter.nix { disabledModules = [ "counter.nix" ]; options.sum = mkOption { type = types.listOf types.int; }; } ];
    specialArgs.modulesPath = ./modules;
  }).config.sum;
  specialArgsInImports = (lib.evalModules {
    modules = [ list ({ where, ... }: { imports = [ (where + "/imports-counter.nix") ]; l = [ "ok" ]; }) ];
    specialArgs.where = ./modules;
  }).config;
  configAndPlainMixed = fails (eval [ list { config.l = [ ]; l = [ ]; } ]);
  unusedUnknownArgument = (eval [ list ({ nosuch, ... }: { l = [ "fine" ]; }) ]).l;
  requireIsImports = (eval [ list { require = [ { l = [ "required" ]; } ]; } ]).l;
  unknownOption = fails (eval [ list { m = 1; } ]);
  unknownNested = fails (eval [ { options.a.b = mkOption { default = 1; }; } { a.c = 1; } ]);
  unknownUnchecked = eval [ list { m = 1; _module.check = false; } ];
}
