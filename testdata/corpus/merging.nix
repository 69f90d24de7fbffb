# What several definitions of each type become.
{ lib }:
let
  inherit (lib) mkDefault mkForce mkOption types;
  merge = type: values: (lib.evalModules {
    modules = [ { options.v = mkOption { inherit type; }; } ] ++ map (v: { inherit v; }) values;
  }).config.v;
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
in
with types;
{
  bool = merge bool [ true true ];
  boolConflict = fails (merge bool [ true false ]);
  int = merge int [ 3 3 ];
  intConflict = fails (merge int [ 3 4 ]);
  str = merge str [ "a" ];
  lines = merge lines [ "a" "b\n" "c" ];
  commas = merge commas [ "a" "b" ];
  separated = merge (separatedString " + ") [ "1" "2" "3" ];
  envVar = merge envVar [ "/a" "/b" ];
  enum = merge (enum [ "a" "b" ]) [ "a" "a" ];
  enumConflict = fails (merge (enum [ "a" "b" ]) [ "a" "b" ]);
  enumOther = fails (merge (enum [ "a" "b" ]) [ "c" ]);
  path = merge path [ "/x" "/x" ];
  listOf = merge (listOf int) [ [ 1 ] [ 2 3 ] [ ] ];
  listOfLists = merge (listOf (listOf int)) [ [ [ 1 ] ] [ [ 2 ] [ 3 ] ] ];
  listElementOfWrongType = fails (merge (listOf int) [ [ 1 "2" ] ]);
  nonEmptyList = merge (nonEmptyListOf int) [ [ 1 ] ];
  attrsOf = merge (attrsOf int) [ { a = 1; } { b = 2; } ];
  attrsOfSame = merge (attrsOf str) [ { a = "x"; } { a = "x"; } ];
  attrsOfConflict = fails (merge (attrsOf str) [ { a = "x"; } { a = "y"; } ]);
  attrsOfPriorities = merge (attrsOf int) [ { a = mkDefault 1; b = 1; } { a = 2; b = mkForce 3; } ];
  attrsOfLists = merge (attrsOf (listOf str)) [ { a = [ "x" ]; } { a = [ "y" ]; b = [ ]; } ];
  attrsOfAttrs = merge (attrsOf (attrsOf int)) [ { a.b = 1; } { a.c = 2; } ];
  lazyAttrsOf = merge (lazyAttrsOf int) [ { a = 1; } { b = 2; } ];
  lazyIsLazy = (merge (lazyAttrsOf int) [ { a = 1; b = throw "looked at"; } ]).a;
  attrs = merge attrs [ { a = 1; b = 1; } { b = 2; } ];
  nullOrNull = merge (nullOr int) [ null null ];
  nullOrValue = merge (nullOr int) [ 1 ];
  nullOrBoth = fails (merge (nullOr int) [ 1 null ]);
  nullOrList = merge (nullOr (listOf int)) [ [ 1 ] [ 2 ] ];
  eitherList = merge (either int (listOf int)) [ [ 1 ] [ 2 ] ];
  eitherMixed = fails (merge (either int (listOf int)) [ [ 1 ] 2 ]);
  oneOf = merge (oneOf [ int bool str ]) [ "s" ];
  oneOfNone = fails (merge (oneOf [ int bool ]) [ "s" ]);
  coerced = merge (coercedTo int toString str) [ 42 ];
  coercedNot = merge (coercedTo int toString str) [ "42" ];
  coercedList = merge (coercedTo str lib.singleton (listOf str)) [ "a" [ "b" "c" ] ];
  uniq = merge (uniq (listOf int)) [ [ 1 2 ] ];
  uniqTwice = fails (merge (uniq (listOf int)) [ [ 1 ] [ 2 ] ]);
  unspecifiedSets = merge unspecified [ { a = 1; } { b = 2; } ];
  unspecifiedLists = merge unspecified [ [ 1 ] [ 2 ] ];
  unspecifiedStrings = merge unspecified [ "a" "b" ];
  unspecifiedBools = merge unspecified [ false true ];
  unspecifiedMixed = fails (merge unspecified [ 1 "a" ]);
  submodules = merge (submodule { options = { a = mkOption { type = int; default = 0; }; l = mkOption { type = listOf int; default = [ ]; }; }; })
    [ { a = 1; l = [ 1 ]; } { l = [ 2 ]; } ];
  attrsOfSubmodules = merge (attrsOf (submodule { options.a = mkOption { type = int; default = 0; }; })) [ { x = { }; } { y.a = 1; } { x.a = 2; } ];
  listOfSubmodules = merge (listOf (submodule { options.a = mkOption { type = int; default = 0; }; })) [ [ { } ] [ { a = 1; } ] ];
  ints = map (t: fails (merge t [ 300 ])) [ ints.u8 ints.u16 ints.s8 ints.unsigned ints.positive port ];
  negative = map (t: fails (merge t [ (-1) ])) [ ints.u8 ints.u16 ints.s8 ints.unsigned ints.positive port ];
  between = map (v: fails (merge (ints.between 2 4) [ v ])) [ 1 2 3 4 5 ];
}
