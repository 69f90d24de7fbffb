# Which values each type takes: type by type, one letter a value.
{ lib }:
let
  inherit (lib) types;
  derivation = { type = "derivation"; name = "d"; outPath = "/nix/store/4g9dyrv7zk7yhwjk4vbl3vfwk7r5xx1l-d"; };
  values = [
    true 0 (-1) 70000 1.5 "" "text" "a\nb" "/an/absolute/path" "${derivation.outPath}" ./modules [ ] [ 1 ] [ "a" ]
    { } { a = 1; } { a = "b"; } derivation null (x: x)
  ];
  all = with types; {
    inherit bool int float str path package attrs unspecified lines port;
    unsigned = ints.unsigned;
    positive = ints.positive;
    s16 = ints.s16;
    listOf = listOf int;
    nonEmptyListOf = nonEmptyListOf str;
    attrsOf = attrsOf int;
    lazyAttrsOf = lazyAttrsOf int;
    nullOr = nullOr str;
    enum = enum [ "text" true 0 ];
    either = either bool str;
    oneOf = oneOf [ bool str int ];
    coercedTo = coercedTo int toString str;
    strMatching = strMatching "[a-z]+";
    submodule = submodule { };
    uniq = uniq int;
    addCheck = addCheck str (s: s != "");
  };
in
lib.mapAttrs (_: t: lib.concatMapStrings (v: if t.check v then "y" else "n") values) all
