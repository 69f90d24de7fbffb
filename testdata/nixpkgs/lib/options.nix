# Declarations of options, and the words that messages use for them.
{ lib }:
let
  showOverrideHint = "Use `lib.mkForce value` or `lib.mkDefault value` to change the priority on any of these definitions.";

  # The value, with nothing below the given depth evaluated.
  limitDepth = depth: v:
    if depth == 0 && (builtins.isAttrs v || builtins.isList v) then "<unevaluated>"
    else if builtins.isList v then map (limitDepth (depth - 1)) v
    else if builtins.isAttrs v && !(lib.isDerivation v) && !(v ? __functor) then builtins.mapAttrs (_: limitDepth (depth - 1)) v
    else v;
in
rec {
  unknownModule = "<unknown-file>";
  isOption = lib.isType "option";

  mkOption =
    { default ? null, defaultText ? null, example ? null, description ? null, relatedPackages ? null
    , type ? null, apply ? null, internal ? null, visible ? null, readOnly ? null
    }@attrs:
    attrs // { _type = "option"; };
  mkEnableOption = name: mkOption {
    default = false;
    example = true;
    description = "Whether to enable ${name}.";
    type = lib.types.bool;
  };
  mkPackageOption = pkgs: name: { nullable ? false, default ? name, example ? null, extraDescription ? "", pkgsText ? "pkgs" }:
    let path = lib.toList default;
    in mkOption ({
      description = "The ${lib.last (lib.toList name)} package to use.";
      type = (if nullable then lib.types.nullOr else lib.id) lib.types.package;
    } // (
      if default != null then {
        default = lib.attrByPath path (throw "${showOption path} cannot be found in ${pkgsText}") pkgs;
      } else lib.optionalAttrs nullable { default = null; }
    ));
  mkSinkUndeclaredOptions = attrs: mkOption ({
    internal = true;
    visible = false;
    default = false;
    description = "Sink for option definitions.";
    type = lib.types.mkOptionType { name = "sink"; check = _: true; merge = _: _: false; };
    apply = _: throw "Option value is not readable because the option is not declared.";
  } // attrs);

  # Only documentation reads these.
  literalExpression = text: { _type = "literalExpression"; inherit text; };
  literalMD = text: { _type = "literalMD"; inherit text; };

  getValues = map (x: x.value);
  getFiles = map (x: x.file);

  mergeDefaultOption = loc: defs:
    let list = getValues defs; in
    if builtins.length list == 1 then builtins.head list
    else if lib.all lib.isFunction list then x: mergeDefaultOption loc (map (f: f x) list)
    else if lib.all builtins.isList list then builtins.concatLists list
    else if lib.all builtins.isAttrs list then builtins.foldl' (a: b: a // b) { } list
    else if lib.all builtins.isBool list then lib.any lib.id list
    else if lib.all builtins.isString list then lib.concatStrings list
    else if lib.all builtins.isInt list && lib.all (x: x == builtins.head list) list then builtins.head list
    else throw "Cannot merge definitions of `${showOption loc}'. Definition values:${showDefs defs}";

  mergeOneOption = mergeUniqueOption { message = ""; };
  mergeUniqueOption = { message, merge ? (_: defs: (builtins.head defs).value) }: loc: defs:
    if builtins.length defs == 1 then merge loc defs
    else
      assert builtins.length defs > 1;
      throw "The option `${showOption loc}' is defined multiple times while it's expected to be unique.\n${message}\nDefinition values:${showDefs defs}\n${showOverrideHint}";

  mergeEqualOption = loc: defs:
    let first = builtins.head defs; in
    if builtins.length defs == 1 then first.value
    else (builtins.foldl' (first: def:
      if def.value != first.value then
        throw "The option `${showOption loc}' has conflicting definition values:${showDefs [ first def ]}\n${showOverrideHint}"
      else first) first (builtins.tail defs)).value;

  # foo.bar."baz.qux"; placeholders of documentation stay as they are.
  showOption = parts:
    let
      show = part:
        if part == "*" || builtins.match "<.*>" part != null then part else lib.strings.escapeNixIdentifier part;
    in
    lib.concatMapStringsSep "." show parts;
  showFiles = lib.concatMapStringsSep " and " (f: "`${f}'");
  showDefs = lib.concatMapStrings (def:
    let
      shown = builtins.tryEval (
        let text = lib.generators.toPretty { } (limitDepth 10 def.value); in builtins.deepSeq text text
      );
      lines = lib.splitString "\n" shown.value;
      value = lib.concatStringsSep "\n    " (lib.take 5 lines ++ lib.optional (lib.length lines > 5) "...");
    in
    "\n- In `${def.file}'" + lib.optionalString shown.success
      (if lib.length lines > 1 then ":\n    ${value}" else ": ${value}"));
  showOptionWithDefLocs = opt: ''
    ${showOption opt.loc}, with values defined in:
    ${lib.concatMapStringsSep "\n" (file: "  - ${file}") opt.files}
  '';
}
