{ lib }:
with lib;
let fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success; in
{
  id = id 1;
  const = const 1 2;
  flip = flip (a: b: a - b) 1 10;
  min = min 1 2;
  max = max 1 2;
  mod = [ (mod 11 10) (mod 1 10) ];
  compare = [ (compare 1 2) (compare 2 2) (compare 3 2) ];
  mergeAttrs = mergeAttrs { a = 1; b = 2; } { b = 3; };
  mapNullable = [ (mapNullable (x: x + 1) null) (mapNullable (x: x + 1) 22) ];
  isFunction = [ (isFunction (x: x)) (isFunction { __functor = self: x: x; }) (isFunction { }) (isFunction 1) ];
  functionArgs = functionArgs ({ a, b ? 1, ... }: a);
  setFunctionArgs = functionArgs (setFunctionArgs (x: x) { a = false; });
  toINI = generators.toINI { } { section = { b = true; a = 1; }; other.x = "y"; };
  toKeyValue = generators.toKeyValue { } { a = "x"; b = 3; c = false; };
  bits = [ (bitAnd 3 10) (bitOr 3 10) (bitXor 3 10) ];
  concat = concatStrings (attrNames { b = 1; a = 2; });
  showOption = map showOption [ [ "a" "b" ] [ "a" "*" "c" ] [ "a" "<name>" "b" ] ];
  showFiles = showFiles [ "a.nix" "b.nix" ];
  mkOption = mkOption { default = 1; description = "d"; };
  wrappers = [ (mkIf true 1) (mkMerge [ 1 ]) (mkForce 1) (mkDefault 1) (mkBefore [ 1 ]) (mkAfter [ 1 ]) (mkOverride 5 1) (mkVMOverride 1) (mkOptionDefault 1) ];
  systems = let e = systems.elaborate { system = "aarch64-linux"; }; in [ e.system e.config e.isAarch64 e.isx86_64 e.isLinux e.parsed.cpu.name ];
  systemsOfConfig = (systems.elaborate { config = "x86_64-unknown-linux-gnu"; }).system;
}
