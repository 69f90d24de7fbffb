# mkIf and mkMerge, and how late their conditions are looked at.
{ lib }:
let
  inherit (lib) mkIf mkMerge mkOption types;
  eval = modules: (lib.evalModules { inherit modules; }).config;
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  flag = name: { options.${name} = mkOption { type = types.bool; default = false; }; };
  list = name: { options.${name} = mkOption { type = types.listOf types.str; default = [ ]; }; };
in
{
  looksAtOwnConfig = eval [ (flag "a") (list "l") ({ config, ... }: { a = true; l = mkIf config.a [ "on" ]; }) ];
  wholeModule = eval [ (flag "a") (list "l") ({ config, ... }: { config = mkIf config.a { l = [ "on" ]; }; }) ];
  wholeModuleOn = eval [ (flag "a") (list "l") { a = true; } ({ config, ... }: { config = mkIf config.a { l = [ "on" ]; }; }) ];
  looksAtNeighbour = (eval [
    (flag "outer")
    { options.s = mkOption { type = types.submodule (flag "inner"); default = { }; }; }
    ({ config, ... }: { s = mkIf (!config.outer) { inner = true; }; })
  ]).s.inner;
  falseContentIsNotLookedAt = eval [ (list "l") { l = mkIf false (throw "looked at"); } ];
  falseModuleIsNotLookedAt = eval [ (list "l") { config = mkIf false { l = throw "looked at"; }; } ];
  nestedIf = eval [ (list "l") { l = mkIf true (mkIf false [ "no" ]); } { l = mkIf true (mkIf true [ "yes" ]); } ];
  mergeOfIfs = eval [ (list "l") { l = mkMerge [ [ "a" ] (mkIf true [ "b" ]) (mkIf false [ "c" ]) ]; } ];
  mergeAtTop = eval [ (list "l") (flag "a") { config = mkMerge [ { l = [ "a" ]; } (mkIf true { a = true; }) { l = [ "b" ]; } ]; } ];
  emptyMerge = eval [ (list "l") { l = mkMerge [ ]; } ];
  notABoolean = fails (eval [ (list "l") { l = mkIf "yes" [ ]; } ]);
  undefinedByIf = fails (eval [ { options.v = mkOption { type = types.str; }; } { v = mkIf false "x"; } ]);
  ifInAttrs = eval [
    { options.set = mkOption { type = types.attrsOf types.int; }; }
    { set = { a = 1; b = mkIf false 2; c = mkIf true 3; }; }
  ];
  ifInLazyAttrs = builtins.attrNames (eval [
    { options.set = mkOption { type = types.lazyAttrsOf types.int; }; }
    { set = { a = 1; b = mkIf false 2; }; }
  ]).set;
  ifInList = eval [
    { options.list = mkOption { type = types.listOf types.int; }; }
    { list = [ 1 (mkIf false 2) (mkIf true 3) ]; }
  ];
  assertion = fails (eval [ (list "l") { l = lib.mkAssert false "no" [ "x" ]; } ]);
}
