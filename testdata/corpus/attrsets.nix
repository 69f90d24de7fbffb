{ lib }:
with lib;
{
  attrByPath = [ (attrByPath [ "a" "b" ] 6 { a.b = 3; }) (attrByPath [ "z" "z" ] 6 { a.b = 3; }) (attrByPath [ "a" "b" "c" ] 6 { a.b = 3; }) ];
  hasAttrByPath = [ (hasAttrByPath [ "a" "b" ] { a.b = 3; }) (hasAttrByPath [ "a" "c" ] { a.b = 3; }) (hasAttrByPath [ "a" "b" "c" ] { a.b = 3; }) ];
  setAttrByPath = setAttrByPath [ "a" "b" ] 3;
  getAttrFromPath = getAttrFromPath [ "a" "b" ] { a.b = 3; };
  attrVals = attrVals [ "a" "b" ] { a = 1; b = 2; c = 3; };
  attrValues = attrValues { c = 3; a = 1; };
  getAttrs = getAttrs [ "a" ] { a = 1; b = 2; };
  catAttrs = catAttrs "a" [ { a = 1; } { b = 0; } { a = 2; } ];
  filterAttrs = filterAttrs (n: v: n == "foo" || v == 3) { foo = 1; bar = 2; baz = 3; };
  filterAttrsRecursive = filterAttrsRecursive (n: v: v != null) { a = null; b.c = null; b.d = 1; };
  foldAttrs = foldAttrs (a: b: [ a ] ++ b) [ ] [ { a = 2; } { a = 3; b = 1; } ];
  collect = collect isList { a = { b = [ "b" ]; }; c = [ 1 ]; d = 1; };
  collectSets = collect (x: x ? outPath) { a.outPath = "a/"; b.outPath = "b/"; };
  nameValuePair = nameValuePair "some" 6;
  mapAttrs = mapAttrs (n: v: n + "-" + v) { x = "foo"; };
  mapAttrs' = mapAttrs' (n: v: nameValuePair ("foo_" + n) ("bar-" + v)) { x = "a"; y = "b"; };
  mapAttrsToList = mapAttrsToList (n: v: n + v) { x = "a"; y = "b"; };
  mapAttrsRecursive = mapAttrsRecursive (path: v: concatStringsSep "-" (path ++ [ v ])) { n.a = "A"; n.m.b = "B"; c = "C"; };
  mapAttrsRecursiveCond = mapAttrsRecursiveCond (as: !(as ? stop)) (path: v: if isAttrs v then "stopped at ${last path}" else v) { a.stop = true; b.c = 1; };
  genAttrs = genAttrs [ "foo" "bar" ] (name: "x_" + name);
  isDerivation = [ (isDerivation { type = "derivation"; }) (isDerivation { type = "x"; }) (isDerivation { }) ];
  optionalAttrs = [ (optionalAttrs true { a = 1; }) (optionalAttrs false { a = 1; }) ];
  zipAttrs = zipAttrs [ { a = "x"; } { a = "y"; b = "z"; } ];
  zipAttrsWith = zipAttrsWith (name: values: "${name}:${concatStrings values}") [ { a = "x"; } { a = "y"; b = "z"; } ];
  zipAttrsWithNames = zipAttrsWithNames [ "a" ] (name: vs: vs) [ { a = 1; } { a = 2; b = 3; } ];
  recursiveUpdate = recursiveUpdate { boot.loader.grub.enable = true; boot.loader.grub.device = "/dev/hda"; } { boot.loader.grub.device = ""; a = 1; };
  recursiveUpdateLeaf = recursiveUpdate { a = 1; b.c = 1; } { a.b = 2; b = 3; };
  recursiveUpdateUntil = recursiveUpdateUntil (path: l: r: path == [ "foo" ]) { foo.bar = 1; foo.baz = 2; bar = 3; } { foo.bar = 1; foo.quz = 2; baz = 4; };
  matchAttrs = [ (matchAttrs { cpu = { }; } { cpu.bits = 64; }) (matchAttrs { cpu.bits = 32; } { cpu.bits = 64; }) ];
  overrideExisting = overrideExisting { a = 1; b = 2; } { b = 3; c = 4; };
  listToAttrs = listToAttrs [ { name = "a"; value = 1; } { name = "a"; value = 2; } ];
  fix = fix (self: { a = 1; b = self.a + 1; });
  extends = let f = self: { foo = "foo"; both = self.foo + self.bar; bar = "bar"; }; in fix (extends (self: super: { foo = super.foo + "+"; }) f);
  composeExtensions = fix (extends (composeExtensions (self: super: { a = super.a + 1; }) (self: super: { a = super.a * 10; })) (self: { a = 1; }));
  makeExtensible = removeAttrs ((makeExtensible (self: { a = 1; b = self.a; })).extend (self: super: { a = super.a + 5; })) [ "extend" "__unfix__" ];
}
