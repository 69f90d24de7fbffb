# Functions that are younger than 20.09, or answer otherwise since.
{ lib }:
with lib;
{
  toPretty = generators.toPretty { } { a = 1; b = [ "x" true null ]; c = { d = "two\nlines"; }; f = x: x; g = { a, b ? 1 }: a; e = { }; l = [ ]; };
  toPrettyLine = generators.toPretty { multiline = false; } { a = 1; b = [ "x\ny" ]; };
  toPrettyNames = generators.toPretty { } { "a.b" = 1; "if" = 2; x-y = 3; };
  showOption = map showOption [ [ "fileSystems" "/home" ] [ "a.b" "if" ] [ "<anything>" ] ];
  showDefs = options.showDefs [ { file = "a.nix"; value = 1; } { file = "b.nix"; value = { a = { b = [ 1 2 3 4 5 6 ]; }; }; } { file = "c.nix"; value = throw "x"; } ];
  escapeShellArg = map escapeShellArg [ "plain" "a/b.c:d" "with space" "42" ];
  levenshtein = [ (strings.levenshtein "foo" "foo") (strings.levenshtein "book" "hook") (strings.levenshtein "hello" "Heyo") (strings.levenshtein "" "ab") ];
  trim = map trim [ "  a b \n" "" "x" ];
  toIntBase10 = toIntBase10 "007";
  escapeNixIdentifier = map strings.escapeNixIdentifier [ "hello" "0abc" "a b" "if" ];
  concatMapAttrs = concatMapAttrs (name: v: { ${name} = v; ${name + v} = v; }) { x = "a"; y = "b"; };
  attrsToList = attrsToList { foo = 1; bar = "b"; };
  mergeAttrsList = mergeAttrsList [ { a = 0; b = 1; } { b = 2; c = 3; } ];
  foldlAttrs = foldlAttrs (acc: name: v: acc + v) 0 { a = 1; b = 2; };
  cartesianProduct = cartesianProduct { a = [ 1 2 ]; b = [ 10 20 ]; };
  updateManyAttrsByPath = updateManyAttrsByPath [ { path = [ "a" "b" ]; update = old: { d = old.c; }; } ] { a.b.c = 0; x = 1; };
  pipe = pipe 2 [ (x: x + 2) (x: x * 2) ];
  replicate = [ (lists.replicate 2 "a") (strings.replicate 3 "ab") ];
  toHexString = toHexString 250;
  sortOn = sortOn stringLength [ "aa" "b" "cccc" ];
  allUnique = [ (allUnique [ 1 2 ]) (allUnique [ 1 1 ]) ];
  getExe = getExe { type = "derivation"; name = "hello-1"; outPath = "/nix/store/x"; meta.mainProgram = "hi"; };
  escapeRegex = escapeRegex "[^a-z]*";
  assertMsg = [ (assertMsg true "no") (builtins.tryEval (assertMsg false "no")).success ];
  defaultTo = [ (defaultTo 1 null) (defaultTo 1 2) ];
  checkAssertWarn = [
    (asserts.checkAssertWarn [ { assertion = true; message = "m"; } ] [ ] "value")
    (builtins.tryEval (asserts.checkAssertWarn [ { assertion = false; message = "m"; } ] [ ] "value")).success
  ];
  toposort = toposort hasPrefix [ "/home/user" "other" "/" "/home" ];
}
