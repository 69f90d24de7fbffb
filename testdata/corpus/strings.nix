{ lib }:
with lib;
let fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success; in
{
  concatMapStrings = concatMapStrings (x: "a" + x) [ "foo" "bar" ];
  concatStringsSep = concatStringsSep "/" [ "usr" "local" ];
  concatMapStringsSep = concatMapStringsSep "-" toUpper [ "foo" "bar" ];
  concatImapStrings = concatImapStrings (pos: x: "${toString pos}-${x}") [ "foo" "bar" ];
  concatImapStringsSep = concatImapStringsSep "-" (pos: x: toString (x / pos)) [ 6 6 6 ];
  intersperse = intersperse "/" [ "usr" "local" "bin" ];
  makeSearchPath = makeSearchPath "bin" [ "/root" "/usr" "/usr/local" ];
  makeBinPath = makeBinPath [ "/root" "/usr" ];
  optionalString = [ (optionalString true "a") (optionalString false "a") ];
  hasPrefix = [ (hasPrefix "foo" "foobar") (hasPrefix "foo" "barfoo") (hasPrefix "" "x") (hasPrefix "longer" "long") ];
  hasSuffix = [ (hasSuffix "foo" "foobar") (hasSuffix "foo" "barfoo") (hasSuffix "longer" "er") ];
  hasInfix = [ (hasInfix "bc" "abcd") (hasInfix "ab" "abcd") (hasInfix "foo" "abcd") (hasInfix "b.d" "abcd") ];
  stringToCharacters = stringToCharacters "abc";
  stringAsChars = stringAsChars (x: if x == "a" then "i" else x) "nax";
  escape = escape [ "(" ")" ] "(foo)";
  escapeShellArg = map escapeShellArg [ "esc'ape\nme" "two words" "" ];
  escapeShellArgs = escapeShellArgs [ "one two" "tw'o" ];
  escapeNixString = strings.escapeNixString "hello\${}\n\"";
  toLower = toLower "HOME";
  toUpper = toUpper "home";
  addContextFrom = replaceStrings [ "a" "b" ] [ "1" "2" ] "cab";
  splitString = [ (splitString "." "foo.bar.baz") (splitString "/" "/usr/local/bin") (splitString "ab" "xaby") (splitString "." "") ];
  removePrefix = [ (removePrefix "foo." "foo.bar") (removePrefix "xxx" "foo.bar") ];
  removeSuffix = [ (removeSuffix "front" "homefront") (removeSuffix "xxx" "homefront") ];
  versionOlder = [ (versionOlder "1.1" "1.2") (versionOlder "1.1" "1.1") (versionOlder "1.10" "1.9") ];
  versionAtLeast = [ (versionAtLeast "1.1" "1.0") (versionAtLeast "1.1" "1.1") (versionAtLeast "1.1" "1.2") ];
  getName = [ (getName "youtube-dl-2016.01.01") (getName { pname = "p"; version = "1"; }) ];
  getVersion = [ (getVersion "youtube-dl-2016.01.01") (getVersion { version = "1.2"; }) ];
  nameFromURL = nameFromURL "https://nixos.org/releases/nix/nix-1.7/nix-1.7-x86_64-linux.tar.bz2" "-";
  fixedWidthString = [ (fixedWidthString 5 "0" (toString 15)) (fails (fixedWidthString 1 "0" "123")) ];
  fixedWidthNumber = fixedWidthNumber 5 15;
  isStorePath = map isStorePath [ "/nix/store/d945ibfx9x185xf04b890y4f9g3cbb63-python" "/nix/store/d945ibfx9x185xf04b890y4f9g3cbb63-python/bin" 42 "x" ];
  toInt = [ (toInt "1337") (toInt "-4") (fails (toInt "3.14")) ];
  fileContents = fileContents ./modules/imports-counter.nix;
  textClosure = textClosureMap id {
    a = { text = "a"; deps = [ "b" ]; };
    b = { text = "b"; deps = [ "c" ]; };
    c = noDepEntry "c";
    d = stringAfter [ "a" ] "d";
    e = fullDepEntry "e" [ ];
  } [ "d" "a" "e" ];
  textClosureCycle = textClosureMap id { a = fullDepEntry "a" [ "b" ]; b = fullDepEntry "b" [ "a" ]; } [ "a" ];
  toJSON = builtins.toJSON { a = [ 1 null ]; };
  boolToString = map boolToString [ true false ];
}
