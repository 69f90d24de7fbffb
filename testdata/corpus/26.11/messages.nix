# Configurations that cannot be evaluated: by name, the value whose message is
# recorded.
{ lib }:
let
  inherit (lib) mkForce mkOption types;
  eval' = modules: (lib.evalModules { modules = modules ++ [ { options.assertions = mkOption { type = types.listOf types.attrs; default = [ ]; }; } ]; }).config;
  eval = modules: let c = (lib.evalModules { inherit modules; }).config; in builtins.deepSeq c c;
  declares = type: { _file = "declares.nix"; options.services.web.port = mkOption { inherit type; }; };
  user = value: { _file = "user.nix"; services.web.port = value; };
  other = value: { _file = "other.nix"; services.web.port = value; };
in
{
  unknown = eval [ (declares types.int) { _file = "user.nix"; services.web.prot = 80; } ];
  unknownTop = eval [ (declares types.int) { _file = "user.nix"; service.web.port = 80; } ];
  unknownDeep = eval [ (declares types.int) { _file = "user.nix"; services.db = { enable = true; port = 1; list = [ 1 2 3 4 5 6 ]; }; } ];
  unknownInSubmodule = eval [ (declares (types.attrsOf (types.submodule { options.a = mkOption { type = types.int; default = 1; }; }))) (user { x.b = 1; }) ];
  noOptionsAtAll = eval [ { _file = "user.nix"; a = 1; } ];
  wrongType = eval [ (declares types.int) (user "eighty") ];
  wrongTypeTwice = eval [ (declares types.port) (user "eighty") (other 70000) ];
  wrongElement = eval [ (declares (types.listOf types.int)) (user [ 1 "two" ]) ];
  wrongMember = eval [ (declares (types.attrsOf types.int)) (user { a = "x"; }) ];
  notAList = eval [ (declares (types.listOf types.int)) (user 1) ];
  notASubmodule = eval [ (declares (types.submodule { })) (user 1) ];
  notOneOf = eval [ (declares (types.enum [ "a" "b" ])) (user "c") ];
  notEither = eval [ (declares (types.either types.int types.bool)) (user "c") ];
  conflict = eval [ (declares types.int) (user 80) (other 81) ];
  conflictStrings = eval [ (declares types.str) (user "a\nb") (other "c") ];
  conflictForced = eval [ (declares types.int) (user (mkForce 80)) (other (mkForce 81)) ];
  unique = eval [ (declares types.raw) (user 80) (other 81) ];
  uniqueMessage = eval [ (declares (types.unique { message = "Only one port."; } types.int)) (user 80) (other 81) ];
  undefined = eval [ (declares types.int) ];
  readOnly = eval [ { _file = "declares.nix"; options.v = mkOption { readOnly = true; default = 1; type = types.int; }; } { _file = "user.nix"; v = 2; } ];
  declaredTwice = eval [ (declares types.int) { _file = "again.nix"; options.services.web.port = mkOption { type = types.str; }; } (user 1) ];
  parentOfOption = eval [ { _file = "declares.nix"; options.a = mkOption { type = types.int; }; } { _file = "child.nix"; options.a.b = mkOption { }; } ];
  nullAndNot = eval [ (declares (types.nullOr types.int)) (user null) (other 1) ];
  badModule = eval [ (declares types.int) { _file = "user.nix"; config = { }; services.web.port = 1; } ];
  notASet = eval [ (declares types.int) { _file = "user.nix"; services.web = 5; } ];
  notABoolean = eval [ (declares types.int) (user (lib.mkIf "yes" 1)) ];
  typeInsteadOfOption = eval [ { _file = "declares.nix"; options.v = types.int; } ];
  removed = let c = eval' [ (lib.mkRemovedOptionModule [ "gone" ] "Use something else.") { gone = 1; } ]; in c.gone;
  anythingConflict = eval [ (declares types.anything) (user { a = 1; }) (other { a = [ ]; }) ];
  unknownArgument = eval [ (declares types.int) ({ nosuch, ... }: { services.web.port = nosuch; }) ];
  listImport = eval [ [ { } ] ];
  mergeUnspecified = eval [ (declares types.unspecified) (user 1) (other "a") ];
}
// {
  assertions = lib.asserts.checkAssertWarn [ { assertion = false; message = "first"; } { assertion = true; message = "never"; } { assertion = false; message = "second"; } ] [ ] 1;
}
