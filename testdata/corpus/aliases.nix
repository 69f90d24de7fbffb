# Options that were renamed, removed or changed.
{ lib }:
let
  inherit (lib) mkDefault mkForce mkOption types;
  support = {
    options.assertions = mkOption { type = types.listOf types.attrs; default = [ ]; };
    options.warnings = mkOption { type = types.listOf types.str; default = [ ]; };
  };
  to = { options.new.name = mkOption { type = types.listOf types.str; default = [ ]; }; };
  eval = modules: lib.evalModules { modules = [ support to ] ++ modules; };
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  renamed = lib.mkRenamedOptionModule [ "old" "name" ] [ "new" "name" ];
  alias = lib.mkAliasOptionModule [ "other" ] [ "new" "name" ];
  removed = lib.mkRemovedOptionModule [ "gone" ] "Use something else.";
  changed = lib.mkChangedOptionModule [ "one" ] [ "new" "name" ] (config: [ "was ${config.one}" ]);
  merged = lib.mkMergedOptionModule [ [ "a" ] [ "b" ] ] [ "new" "name" ] (config: lib.filter lib.isString [ config.a config.b ]);
in
{
  renamed = (eval [ renamed { _file = "user.nix"; old.name = [ "x" ]; } ]).config.new.name;
  renamedWarns = (eval [ renamed { _file = "user.nix"; old.name = [ "x" ]; } ]).config.warnings;
  renamedUnused = (eval [ renamed ]).config.warnings;
  renamedMerges = (eval [ renamed { old.name = [ "x" ]; } { new.name = [ "y" ]; } ]).config.new.name;
  renamedReads = (eval [ renamed { new.name = [ "y" ]; } ]).config.old.name;
  renamedForce = (eval [ renamed { old.name = mkForce [ "x" ]; } { new.name = [ "y" ]; } ]).config.new.name;
  renamedDefault = (eval [ renamed { old.name = mkDefault [ "x" ]; } { new.name = [ "y" ]; } ]).config.new.name;
  alias = (eval [ alias { other = [ "x" ]; } ]).config.new.name;
  aliasSilent = (eval [ alias { other = [ "x" ]; } ]).config.warnings;
  removedUnused = map (a: a.assertion) (eval [ removed ]).config.assertions;
  removedUsed = (eval [ removed { _file = "user.nix"; gone = 1; } ]).config.assertions;
  removedRead = fails (eval [ removed { gone = 1; } ]).config.gone;
  changed = (eval [ changed { one = "1"; } ]).config.new.name;
  changedUnused = (eval [ changed ]).config.new.name;
  changedWarns = (eval [ changed { _file = "user.nix"; one = "1"; } ]).config.warnings;
  merged = (eval [ merged { a = "A"; b = "B"; } ]).config.new.name;
  aliasDefinitions = (eval [ ({ options, ... }: { options.source = mkOption { type = types.listOf types.str; }; config.source = [ "s" ]; config.new.name = lib.mkAliasDefinitions options.source; }) ]).config.new.name;
}
