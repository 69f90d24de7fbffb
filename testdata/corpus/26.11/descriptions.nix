# How types are called in messages.
{ lib }:
with lib.types;
lib.mapAttrs (_: t: t.description) {
  inherit bool int float str lines path package attrs unspecified anything raw port number
    nonEmptyStr singleLineStr pathInStore externalPath optionType deferredModule;
  u8 = ints.u8;
  unsigned = ints.unsigned;
  positive = ints.positive;
  between = ints.between 1 5;
  matching = strMatching "[a-z]";
  listOf = listOf str;
  listOfEither = listOf (either int str);
  listOfNullOr = listOf (nullOr int);
  nonEmptyListOf = nonEmptyListOf str;
  attrsOf = attrsOf (listOf int);
  lazyAttrsOf = lazyAttrsOf (nullOr bool);
  nullOr = nullOr (listOf str);
  nullOrEither = nullOr (either int str);
  enum = enum [ "a" 1 true ];
  enumOne = enum [ "a" ];
  enumNone = enum [ ];
  either = either int str;
  eitherUnsigned = either ints.unsigned (enum [ "a" "b" ]);
  eitherLists = either (listOf int) (attrsOf str);
  oneOf = oneOf [ int str bool ];
  coercedTo = coercedTo int toString str;
  coercedToList = coercedTo str lib.singleton (listOf str);
  submodule = submodule { };
  listOfSubmodules = listOf (submodule { });
  openSubmodule = submodule { freeformType = attrsOf int; };
  functionTo = functionTo (listOf int);
  passwdEntry = passwdEntry str;
  unique = unique { message = "m"; } (listOf int);
  attrTag = attrTag { a = lib.mkOption { type = int; }; b = lib.mkOption { type = str; }; };
}
