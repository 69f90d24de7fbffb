# Functions on plain values, and what the library says of itself.
{ lib }:
let
  inherit (builtins) isAttrs isBool isFloat isInt isList isPath isString;
in
rec {
  inherit (builtins)
    add addErrorContext bitAnd bitOr bitXor deepSeq fromJSON fromTOML getAttr
    isAttrs isBool isFloat isInt isList isPath isString lessThan mul pathExists readDir readFile
    seq sub trace tryEval typeOf unsafeGetAttrPos;

  release = lib.fileContents ../.version;
  versionSuffix = ".stand-in";
  version = release + versionSuffix;
  codeName = "Stand-in";
  oldestSupportedRelease = 2605;
  isInOldestRelease = n: n <= oldestSupportedRelease;
  oldestSupportedReleaseIsAtLeast = isInOldestRelease;
  inNixShell = builtins.getEnv "IN_NIX_SHELL" != "";
  inPureEvalMode = !(builtins ? currentSystem);
  nixpkgsVersion = version;
  revisionWithDefault = default: default;

  id = x: x;
  const = x: _: x;
  pipe = builtins.foldl' (x: f: f x);
  flip = f: a: b: f b a;
  and = x: y: x && y;
  or = x: y: x || y;
  xor = x: y: x != y;
  mapNullable = f: x: if x == null then null else f x;
  mergeAttrs = x: y: x // y;
  defaultTo = default: x: if x == null then default else x;
  min = x: y: if x < y then x else y;
  max = x: y: if x > y then x else y;
  mod = base: int: base - int * (base / int);
  compare = a: b: if a < b then -1 else if a > b then 1 else 0;
  boolToString = b: if b then "true" else "false";
  toHexString = i:
    let
      digits = lib.stringToCharacters "0123456789ABCDEF";
      rest = i / 16;
    in
    (if rest == 0 then "" else toHexString rest) + builtins.elemAt digits (mod i 16);
  importJSON = path: builtins.fromJSON (builtins.readFile path);
  importTOML = path: builtins.fromTOML (builtins.readFile path);

  # A function is a lambda or a set that can be called.
  isFunction = f: builtins.isFunction f || (f ? __functor && isFunction (f.__functor f));
  functionArgs = f:
    if f ? __functor then f.__functionArgs or (functionArgs (f.__functor f)) else builtins.functionArgs f;
  setFunctionArgs = f: args: { __functor = _: f; __functionArgs = args; };
  toFunction = v: if isFunction v then v else _: v;
  mirrorFunctionArgs = f: setFunctionArgs' (functionArgs f);
  setFunctionArgs' = args: f: setFunctionArgs f args;

  warn = msg: builtins.trace "evaluation warning: ${msg}";
  warnIf = cond: msg: if cond then warn msg else id;
  warnIfNot = cond: warnIf (!cond);
  throwIf = cond: msg: if cond then throw msg else id;
  throwIfNot = cond: throwIf (!cond);
  info = msg: builtins.trace "INFO: ${msg}";
  showWarnings = warnings: result: builtins.foldl' (r: w: warn w r) result warnings;
  traceVal = x: builtins.trace x x;
  traceValSeq = x: builtins.trace (builtins.deepSeq x x) x;
  traceSeq = x: builtins.trace (builtins.deepSeq x x);

  assertMsg = pred: msg: pred || throw msg;
  assertOneOf = name: value: values:
    assertMsg (builtins.elem value values)
      "${name} must be one of ${toPretty { multiline = false; } values}, but is: ${toPretty { } value}";
  # What every toplevel goes through: its assertions, then its warnings.
  checkAssertWarn = assertions: warnings: value:
    let failed = map (a: a.message) (builtins.filter (a: !a.assertion) assertions);
    in
    if failed != [ ] then
      throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (m: "- ${m}") failed}"
    else showWarnings warnings value;

  isDerivation = v: v.type or null == "derivation";
  isType = type: x: x._type or null == type;
  setType = type: value: value // { _type = type; };
  getExe = package:
    getExe' package (package.meta.mainProgram or (lib.getName package));
  getExe' = package: name: "${lib.getBin package}/bin/${name}";

  # A value as Nix would write it, for messages.
  toPretty = { multiline ? true, indent ? "", allowPrettyValues ? false }:
    let
      show = indent: v:
        let
          inner = indent + (if multiline then "  " else "");
          open = if multiline then "\n${inner}" else " ";
          close = if multiline then "\n${indent}" else " ";
        in
        if isInt v || isFloat v then toString v
        else if isString v then showString indent v
        else if v == true then "true"
        else if v == false then "false"
        else if v == null then "null"
        else if isPath v then toString v
        else if isList v then
          if v == [ ] then "[ ]"
          else "[" + open + lib.concatMapStringsSep open (show inner) v + close + "]"
        else if isFunction v then
          let args = lib.mapAttrsToList (n: optional: if optional then "${n}?" else n) (functionArgs v);
          in if args == [ ] then "<function>" else "<function, args: {${builtins.concatStringsSep ", " args}}>"
        else if isAttrs v then
          if allowPrettyValues && v ? __pretty && v ? val then v.__pretty v.val
          else if v == { } then "{ }"
          else if isDerivation v then "<derivation ${v.name or "???"}>"
          else
            "{" + open
            + builtins.concatStringsSep open (lib.mapAttrsToList
              (n: x: "${lib.escapeNixIdentifier n} = ${builtins.addErrorContext "while evaluating an attribute `${n}`" (show inner x)};")
              v)
            + close + "}"
        else abort "toPretty: a value of type ${builtins.typeOf v}";
      showString = indent: v:
        let
          lines = lib.splitString "\n" v;
          inner = "${indent}  ";
          escaped = map (lib.replaceStrings [ "\${" "''" ] [ "''\${" "'''" ]) lines;
        in
        if !multiline || builtins.length lines <= 1 then lib.escapeNixString v
        else
          "''\n${inner}" + builtins.concatStringsSep "\n${inner}" (lib.init escaped)
          + (if lib.last lines == "" then "\n${indent}" else "\n${inner}${lib.last escaped}") + "''";
    in
    show indent;
}
