# Submodules: their arguments, names, imports and options declared twice.
{ lib }:
let
  inherit (lib) mkDefault mkForce mkOption types;
  eval = modules: (lib.evalModules { inherit modules; }).config;
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  str = default: mkOption { type = types.str; inherit default; };
  hosts = type: { options.hosts = mkOption { type = types.attrsOf (types.submodule type); default = { }; }; };
in
{
  nameArgument = eval [ (hosts ({ name, ... }: { options.n = str name; })) { hosts.web = { }; hosts."a.b" = { }; } ];
  ownConfig = eval [ (hosts ({ config, ... }: { options = { a = str "x"; b = str "${config.a}!"; }; })) { hosts.h.a = "y"; } ];
  ownOptions = eval [ (hosts ({ options, ... }: { options = { a = str "x"; b = mkOption { type = types.bool; default = options.a.isDefined; }; }; })) { hosts.h = { }; } ];
  definedAsFunction = eval [ (hosts { options = { a = str "x"; b = str "y"; }; }) { hosts.h = { config, ... }: { a = config.b; }; } ];
  definedWithConfig = eval [ (hosts { options.a = str "x"; }) { hosts.h = { ... }: { config.a = "via config"; }; } ];
  imports = eval [ (hosts { imports = [ { options.a = str "imported"; } ]; }) { hosts.h = { }; } ];
  importsInDefinition = eval [ (hosts { options.a = str "x"; }) { hosts.h = { ... }: { imports = [ { a = "imported"; } ]; }; } ];
  severalModules = eval [ (hosts [ { options.a = str "a"; } { options.b = str "b"; } ]) { hosts.h = { }; } ];
  declaredTwice = eval [ (hosts { options.a = str "a"; }) { options.hosts = mkOption { type = types.attrsOf (types.submodule { options.b = str "b"; }); }; } { hosts.h = { }; } ];
  defaultsInside = eval [ (hosts ({ ... }: { options.a = str "option"; config.a = mkDefault "module"; })) { hosts.x = { }; hosts.y.a = "user"; } ];
  priorityAroundWhole = eval [ (hosts { options.a = str "x"; }) { hosts.h.a = "plain"; } { hosts = mkForce { other.a = "forced"; }; } ];
  priorityAroundOne = eval [ (hosts { options.a = str "x"; }) { hosts.h.a = "plain"; } { hosts.h = mkForce { a = "forced"; }; } ];
  unknownOption = fails (eval [ (hosts { options.a = str "x"; }) { hosts.h.b = "x"; } ]);
  unknownUnchecked = eval [ (hosts { options.a = str "x"; config._module.check = false; }) { hosts.h.b = "x"; } ];
  argsInside = eval [ (hosts ({ word, ... }: { options.a = str word; config._module.args.word = "given"; })) { hosts.h = { }; } ];
  nested = eval [
    (hosts { options.disks = mkOption { type = types.listOf (types.submodule ({ config, ... }: { options = { size = mkOption { type = types.int; default = 1; }; big = mkOption { type = types.bool; default = config.size > 10; }; }; })); default = [ ]; }; })
    { hosts.h.disks = [ { } { size = 20; } ]; }
  ];
  submoduleWithSpecialArgs = (eval [
    { options.s = mkOption { type = types.submoduleWith { modules = [ ({ extra, ... }: { imports = extra; options.a = str "x"; }) ]; specialArgs.extra = [ { options.b = str "from extra"; } ]; }; default = { }; }; }
  ]).s;
  fromPath = (eval [ { options.s = mkOption { type = types.submodule ./modules/counter.nix; default = { }; }; } { s.sum = [ 5 ]; } ]).s;
  defaultIsMerged = eval [ { options.s = mkOption { type = types.submodule { options.a = str "x"; options.b = str "y"; }; default = { a = "default"; }; }; } ];
  defaultIsReplaced = eval [ { options.s = mkOption { type = types.submodule { options.a = str "x"; options.b = str "y"; }; default = { a = "default"; }; }; } { s.b = "set"; } ];
}
