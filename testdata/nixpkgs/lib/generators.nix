# Values as text.
{ lib }:
rec {
  inherit (builtins) toJSON;

  # A value as configuration files write it.
  mkValueStringDefault = _: v:
    if builtins.isBool v then lib.boolToString v
    else if builtins.isPath v || builtins.isInt v || builtins.isString v || v ? outPath then toString v
    else if builtins.isFloat v then builtins.toJSON v
    else if v == null then "null"
    else throw "generators.mkValueStringDefault: this value is not supported: ${toPretty { } v}";
  mkKeyValueDefault = { mkValueString ? mkValueStringDefault { } }: sep: k: v:
    "${lib.escape [ sep ] k}${sep}${mkValueString v}";
  toKeyValue = { mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false, indent ? "" }: set:
    builtins.concatStringsSep "" (builtins.concatMap
      (k: map (v: "${indent}${mkKeyValue k v}\n")
        (if listsAsDuplicateKeys && builtins.isList set.${k} then set.${k} else [ set.${k} ]))
      (builtins.attrNames set));
  toINI = { mkSectionName ? (n: lib.escape [ "[" "]" ] n), mkKeyValue ? mkKeyValueDefault { } "=", listsAsDuplicateKeys ? false }: sections:
    builtins.concatStringsSep "\n" (lib.mapAttrsToList
      (n: s: "[${mkSectionName n}]\n" + toKeyValue { inherit mkKeyValue listsAsDuplicateKeys; } s)
      sections);

  # A value as Nix would write it, for messages.
  toPretty = { multiline ? true, indent ? "", allowPrettyValues ? false }:
    let
      show = indent: v:
        let
          inner = indent + (if multiline then "  " else "");
          open = if multiline then "\n${inner}" else " ";
          close = if multiline then "\n${indent}" else " ";
        in
        if builtins.isInt v || builtins.isFloat v then toString v
        else if builtins.isString v then showString indent v
        else if v == true then "true"
        else if v == false then "false"
        else if v == null then "null"
        else if builtins.isPath v then toString v
        else if builtins.isList v then
          if v == [ ] then "[ ]"
          else "[" + open + lib.concatMapStringsSep open (show inner) v + close + "]"
        else if lib.isFunction v then
          let args = lib.mapAttrsToList (n: optional: if optional then "${n}?" else n) (lib.functionArgs v);
          in if args == [ ] then "<function>" else "<function, args: {${builtins.concatStringsSep ", " args}}>"
        else if builtins.isAttrs v then
          if allowPrettyValues && v ? __pretty && v ? val then v.__pretty v.val
          else if v == { } then "{ }"
          else if lib.isDerivation v then "<derivation ${v.name or "???"}>"
          else
            "{" + open
            + builtins.concatStringsSep open (lib.mapAttrsToList
              (n: x: "${lib.strings.escapeNixIdentifier n} = ${builtins.addErrorContext "while evaluating an attribute `${n}`" (show inner x)};")
              v)
            + close + "}"
        else abort "toPretty: a value of type ${builtins.typeOf v}";
      showString = indent: v:
        let
          lines = lib.splitString "\n" v;
          inner = "${indent}  ";
          escaped = map (lib.replaceStrings [ "\${" "''" ] [ "''\${" "'''" ]) lines;
        in
        if !multiline || builtins.length lines <= 1 then lib.strings.escapeNixString v
        else
          "''\n${inner}" + builtins.concatStringsSep "\n${inner}" (lib.init escaped)
          + (if lib.last lines == "" then "\n${indent}" else "\n${inner}${lib.last escaped}") + "''";
    in
    show indent;
}
