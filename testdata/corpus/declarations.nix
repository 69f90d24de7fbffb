# Options as values: what a module can ask about them, and declaring them twice.
{ lib }:
let
  inherit (lib) mkDefault mkForce mkIf mkOption types;
  eval = modules: lib.evalModules { inherit modules; };
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  result = eval [
    { _file = "declares.nix"; options.a.b = mkOption { type = types.listOf types.int; default = [ 0 ]; }; options.u = mkOption { type = types.int; }; options.d = mkOption { type = types.int; default = 7; }; }
    { _file = "first.nix"; a.b = [ 1 ]; }
    { _file = "second.nix"; a.b = mkIf true [ 2 ]; }
    { _file = "third.nix"; a.b = mkIf false [ 3 ]; }
    { _file = "fourth.nix"; a.b = mkDefault [ 4 ]; }
  ];
  twice = a: b: (eval [ { options.v = mkOption a; } { options.v = mkOption b; } { v = [ 1 ]; } ]).config.v;
in
{
  isOption = lib.isOption result.options.a.b;
  isNoOption = lib.isOption result.options.a;
  loc = result.options.a.b.loc;
  files = result.options.a.b.files;
  definitions = result.options.a.b.definitions;
  declarations = result.options.a.b.declarations;
  isDefined = { b = result.options.a.b.isDefined; u = result.options.u.isDefined; d = result.options.d.isDefined; };
  typeName = result.options.a.b.type.name;
  undefined = fails result.config.u;
  apply = (eval [ { options.v = mkOption { type = types.int; apply = x: x * 2; }; } { v = 21; } ]).config.v;
  applyToDefault = (eval [ { options.v = mkOption { type = types.int; default = 4; apply = x: x * 2; }; } ]).config.v;
  readOnly = (eval [ { options.v = mkOption { type = types.int; readOnly = true; }; } { v = 1; } ]).config.v;
  readOnlyTwice = fails (eval [ { options.v = mkOption { type = types.int; readOnly = true; default = 1; }; } { v = 1; } ]).config.v;
  untyped = (eval [ { options.v = mkOption { }; } { v = { a = 1; }; } { v = { b = 2; }; } ]).config.v;
  twiceSameType = twice { type = types.listOf types.int; } { type = types.listOf types.int; };
  twiceOneType = twice { type = types.listOf types.int; } { description = "only here"; };
  twiceOtherType = fails (twice { type = types.listOf types.int; } { type = types.listOf types.str; });
  twiceDefault = fails (twice { default = [ ]; } { default = [ ]; });
  twiceEnum = map (v: (eval [ { options.v = mkOption { type = types.enum [ "a" ]; }; } { options.v = mkOption { type = types.enum [ "b" ]; }; } { inherit v; } ]).config.v) [ "a" "b" ];
  optionInsideOption = fails (eval [ { options.v = mkOption { type = types.int; }; } { options.v.w = mkOption { }; } { v = 1; } ]).config.v;
  optionsBeside = (eval [ { options.a.b = mkOption { default = 1; }; } { options.a.c = mkOption { default = 2; }; } ]).config;
  enable = map (v: (eval [ { options.e = lib.mkEnableOption "it"; } v ]).config.e) [ { } { e = true; } { e = mkForce false; } ];
  definedIsSet = (eval [ { options.set = mkOption { type = types.attrs; default = { }; }; } { set.a.b = 1; } ]).config.set;
}
