# Functions on plain values, and what the library says of itself.
{ lib }:
rec {
  inherit (builtins)
    add bitAnd bitOr bitXor deepSeq isBool isFloat isInt lessThan pathExists readFile seq sub;

  release = lib.fileContents ../.version;
  versionSuffix = ".stand-in";
  version = release + versionSuffix;
  codeName = "Stand-in";
  oldestSupportedRelease = 2605;
  isInOldestRelease = oldestSupportedReleaseIsAtLeast;
  oldestSupportedReleaseIsAtLeast = n: n <= oldestSupportedRelease;
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
  mirrorFunctionArgs = f: wrapper: setFunctionArgs wrapper (functionArgs f);

  warn = msg: builtins.trace "evaluation warning: ${msg}";
  warnIf = cond: msg: if cond then warn msg else id;
  warnIfNot = cond: warnIf (!cond);
  throwIf = cond: msg: if cond then throw msg else id;
  throwIfNot = cond: throwIf (!cond);
  info = msg: builtins.trace "INFO: ${msg}";
  showWarnings = warnings: result: builtins.foldl' (r: w: warn w r) result warnings;
}
