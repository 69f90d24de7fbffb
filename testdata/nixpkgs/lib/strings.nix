# Functions on strings.
{ lib }:
rec {
  inherit (builtins)
    compareVersions concatStringsSep elemAt fromJSON isString match parseDrvName
    readFile replaceStrings split storeDir stringLength substring tail toJSON
    unsafeDiscardStringContext;

  concatStrings = concatStringsSep "";
  concatMapStrings = f: list: concatStrings (map f list);
  concatMapStringsSep = sep: f: list: concatStringsSep sep (map f list);
  concatImapStrings = f: list: concatStrings (lib.imap1 f list);
  concatImapStringsSep = sep: f: list: concatStringsSep sep (lib.imap1 f list);
  concatLines = concatMapStrings (s: s + "\n");
  intersperse = sep: list:
    if list == [ ] || builtins.length list == 1 then list
    else builtins.tail (builtins.concatMap (x: [ sep x ]) list);
  join = concatStringsSep;
  optionalString = cond: s: if cond then s else "";
  replicate = n: s: concatStrings (lib.lists.replicate n s);
  hasPrefix = prefix: s: substring 0 (stringLength prefix) s == prefix;
  hasSuffix = suffix: s:
    let
      n = stringLength s;
      m = stringLength suffix;
    in
    n >= m && substring (n - m) n s == suffix;
  hasInfix = infix: s: match ".*${escapeRegex infix}.*" "${s}" != null;
  removePrefix = prefix: s: if hasPrefix prefix s then substring (stringLength prefix) (-1) s else s;
  removeSuffix = suffix: s:
    if hasSuffix suffix s then substring 0 (stringLength s - stringLength suffix) s else s;
  stringToCharacters = s: builtins.genList (n: substring n 1 s) (stringLength s);
  stringAsChars = f: s: concatStrings (map f (stringToCharacters s));
  splitString = sep: s:
    builtins.filter isString (split (escapeRegex (toString sep)) (toString s));
  escape = chars: replaceStrings chars (map (c: "\\${c}") chars);
  escapeRegex = escape (stringToCharacters "\\[{()^$?*+|.");
  escapeShellArg = arg:
    let s = toString arg;
    in if match "[[:alnum:],._+:@%/-]+" s == null then "'${replaceStrings [ "'" ] [ "'\\''" ] s}'" else s;
  escapeShellArgs = concatMapStringsSep " " escapeShellArg;
  isValidPosixName = name: match "[a-zA-Z_][a-zA-Z0-9_]*" name != null;
  toShellVar = name: value: "${name}=${escapeShellArg (lib.generators.mkValueStringDefault { } value)}";
  escapeNixString = s: escape [ "$" ] (builtins.toJSON s);
  escapeNixIdentifier = s:
    if match "[a-zA-Z_][a-zA-Z0-9_'-]*" s != null && !(builtins.elem s [ "assert" "else" "if" "in" "inherit" "let" "or" "rec" "then" "with" ])
    then s else escapeNixString s;
  escapeXML = replaceStrings [ "\"" "'" "<" ">" "&" ] [ "&quot;" "&apos;" "&lt;" "&gt;" "&amp;" ];
  lowerChars = stringToCharacters "abcdefghijklmnopqrstuvwxyz";
  upperChars = stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  toLower = replaceStrings upperChars lowerChars;
  toUpper = replaceStrings lowerChars upperChars;
  trim = s:
    let m = match "[ \t\r\n]*(.*[^ \t\r\n])[ \t\r\n]*" s;
    in if m == null then "" else builtins.head m;
  toInt = s:
    let m = match "[[:space:]]*(-?[[:digit:]]+)[[:space:]]*" s;
    in
    if m == null then throw "toInt: Could not convert ${escapeNixString s} to int."
    else if match "-?0[[:digit:]]+" (builtins.head m) != null then
      throw "toInt: Ambiguity in interpretation of ${escapeNixString s} between octal and zero padded integer."
    else fromJSON (builtins.head m);
  toIntBase10 = s:
    let m = match "[[:space:]]*0*(-?[[:digit:]]+)[[:space:]]*" s;
    in if m == null then throw "toIntBase10: Could not convert ${escapeNixString s} to int." else fromJSON (builtins.head m);
  fixedWidthString = width: filler: s:
    let
      missing = width - stringLength s;
      padding = lib.lists.replicate missing filler;
    in
    assert lib.assertMsg (missing >= 0) "fixedWidthString: requested string length (${toString width}) must not be shorter than actual length (${toString (stringLength s)})";
    concatStrings padding + s;
  fixedWidthNumber = width: n: fixedWidthString width "0" (toString n);
  versionOlder = a: b: compareVersions b a == 1;
  versionAtLeast = a: b: !(versionOlder a b);
  getName = x: if isString x then (parseDrvName x).name else x.pname or (parseDrvName x.name).name;
  getVersion = x: if isString x then (parseDrvName x).version else x.version or (parseDrvName x.name).version;
  nameFromURL = url: sep: builtins.head (splitString sep (lib.last (splitString "/" url)));
  fileContents = file: removeSuffix "\n" (readFile file);
  makeSearchPath = dir: paths: concatStringsSep ":" (map (p: "${p}/${dir}") (builtins.filter (p: p != null) paths));
  makeSearchPathOutput = output: dir: paths: makeSearchPath dir (map (lib.getOutput output) paths);
  makeBinPath = makeSearchPathOutput "bin" "bin";
  makeLibraryPath = makeSearchPathOutput "lib" "lib";
  sanitizeDerivationName = s:
    let name = concatMapStrings (x: if builtins.isList x then "-" else x)
      (split "[^[:alnum:]+._?=-]+" (unsafeDiscardStringContext s));
    in if name == "" then "unknown" else substring (lib.max (stringLength name - 207) 0) (-1) (removePrefix "." name);
  isStorePath = x:
    isStringLike x && (
      let s = toString x;
      in substring 0 1 s == "/" && dirOf s == storeDir
    );
  isStringLike = x: isString x || builtins.isPath x || x ? outPath || x ? __toString;
  isConvertibleWithToString = x:
    builtins.elem (builtins.typeOf x) [ "path" "string" "null" "int" "float" "bool" ]
    || (builtins.isList x && lib.all isConvertibleWithToString x) || isStringLike x;
  # How many characters must be added, removed or changed to make b of a.
  levenshtein = a: b:
    let
      as = stringToCharacters a;
      bs = stringToCharacters b;
      # One row of the matrix of distances between beginnings of a and b.
      next = row: x: builtins.foldl' (out: j:
        out ++ [
          (lib.min (lib.min (lib.last out) (builtins.elemAt row (j + 1)) + 1)
            (builtins.elemAt row j + (if x == builtins.elemAt bs j then 0 else 1)))
        ]) [ (builtins.head row + 1) ] (lib.range 0 (builtins.length bs - 1));
    in
    lib.last (builtins.foldl' next (lib.range 0 (builtins.length bs)) as);
}
