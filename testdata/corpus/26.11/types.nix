# Types that are younger than 20.09, and what no definition at all becomes.
{ lib }:
let
  inherit (lib) mkDefault mkIf mkOption types;
  merge = type: values: (lib.evalModules {
    modules = [ { options.v = mkOption { inherit type; }; } ] ++ map (v: { inherit v; }) values;
  }).config.v;
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  derivation = { type = "derivation"; name = "d"; outPath = "/nix/store/4g9dyrv7zk7yhwjk4vbl3vfwk7r5xx1l-d"; };
in
with types;
{
  anythingSets = merge anything [ { a.b = 1; } { a.c = [ 2 ]; } ];
  anythingConflict = fails (merge anything [ { a = 1; } { a = 2; } ]);
  anythingKinds = fails (merge anything [ { a = 1; } 2 ]);
  anythingLists = fails (merge anything [ [ 1 ] [ 2 ] ]);
  anythingEqual = merge anything [ [ 1 ] [ 1 ] ];
  anythingPriorities = merge anything [ { a = mkDefault 1; b = 1; } { a = 2; } ];
  anythingFunction = merge anything [ (x: { a = x; }) (x: { b = x + 1; }) ] 1;
  anythingIf = merge anything [ { a = mkIf false 1; b = mkIf true 2; } ];
  raw = merge raw [ { a = 1; } ];
  rawTwice = fails (merge raw [ 1 1 ]);
  functionTo = merge (functionTo (listOf int)) [ (x: [ x ]) (x: [ (x * 2) ]) ] 3;
  functionToArgs = lib.functionArgs (merge (functionTo int) [ ({ a, b ? 1 }: a) ]);
  singleLineStr = merge singleLineStr [ "line\n" ];
  singleLineStrTwo = fails (merge singleLineStr [ "a\nb" ]);
  nonEmptyStr = [ (merge nonEmptyStr [ "a" ]) (fails (merge nonEmptyStr [ " " ])) ];
  number = [ (merge number [ 1 ]) (merge number [ 1.5 ]) (fails (merge number [ "1" ])) ];
  boolByOr = merge boolByOr [ false true ];
  unique = fails (merge (unique { message = "m"; } int) [ 1 1 ]);
  pathInStore = [ (merge pathInStore [ "${derivation.outPath}" ]) (fails (merge pathInStore [ "/etc" ])) ];
  externalPath = [ (merge externalPath [ "/etc" ]) (fails (merge externalPath [ "${derivation.outPath}" ])) ];
  passwdEntry = [ (merge (passwdEntry str) [ "a" ]) (fails (merge (passwdEntry str) [ "a:b" ])) ];
  attrTag = merge (attrTag { a = mkOption { type = int; }; b = mkOption { type = str; }; }) [ { b = "x"; } ];
  attrTagTwo = fails (merge (attrTag { a = mkOption { type = int; }; b = mkOption { type = str; }; }) [ { b = "x"; } { a = 1; } ]);
  deferred = (lib.evalModules {
    modules = [
      ({ config, ... }: {
        options.template = mkOption { type = deferredModule; };
        options.made = mkOption { type = submoduleWith { modules = [ config.template ]; }; default = { }; };
      })
      { template = { options.x = mkOption { type = int; default = 1; }; }; }
      { template = { lib, ... }: { x = lib.mkForce 5; }; }
    ];
  }).config.made;
  u32 = [ (merge ints.u32 [ 4294967295 ]) (fails (merge ints.u32 [ 4294967296 ])) ];
  coercedPackage = (merge package [ derivation ]).name;
  empty = lib.mapAttrs (_: t: let v = merge t [ ]; in if fails v then "fails" else v) {
    int = int; str = str; listOf = listOf int; attrsOf = attrsOf int; nullOr = nullOr int;
    lines = lines; attrs = attrs; submodule = submodule { options.a = mkOption { default = 1; }; };
    nonEmpty = nonEmptyListOf int; uniq = uniq (listOf int); coerced = coercedTo int toString (nullOr str); either = either int (listOf int);
  };
  emptyByIf = merge (listOf int) [ (mkIf false [ 1 ]) ];
  attrsWith = merge (attrsWith { elemType = int; placeholder = "host"; }) [ { a = 1; } ];
  optionsInsideSubmodule = (lib.evalModules {
    modules = [
      { options.s = mkOption { type = submodule { options.a = mkOption { default = 1; }; }; default = { }; }; }
      { options.s.b = mkOption { default = 2; }; }
    ];
  }).config.s;
}
