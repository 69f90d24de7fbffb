# Configurations as values: extended, as types, with a class.
{ lib }:
let
  inherit (lib) mkDefault mkForce mkOption types;
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  base = lib.evalModules { modules = [ { options.v = mkOption { type = types.str; default = "base"; }; options.w = mkOption { type = types.str; default = "w"; }; } ]; };
  optionOf = type: (lib.evalModules { modules = [ { options.inner = mkOption { inherit type; default = { }; }; } { inner.v = "inner"; } ]; }).config.inner;
in
{
  members = builtins.attrNames (removeAttrs base [ "graph" ]);
  extended = (base.extendModules { modules = [ { v = "extended"; } ]; }).config;
  twice = ((base.extendModules { modules = [ { v = mkDefault "one"; } ]; }).extendModules { modules = [ { v = "two"; } ]; }).config;
  originalStays = base.config;
  asType = optionOf base.type;
  fromInside = (lib.evalModules {
    modules = [ ({ extendModules, ... }: {
      options.v = mkOption { type = types.int; default = 1; };
      options.other = mkOption { type = types.raw; default = (extendModules { modules = [ { v = mkForce 2; } ]; }).config.v; };
    }) ];
  }).config;
  class = (lib.evalModules { class = "nixos"; modules = [ { _class = "nixos"; options.v = mkOption { default = 1; }; } ]; }).config;
  otherClass = fails (lib.evalModules { class = "nixos"; modules = [ { _class = "darwin"; options.v = mkOption { default = 1; }; } ]; }).config;
  specialArgs = (base.extendModules { modules = [ ({ word, ... }: { v = word; }) ]; specialArgs.word = "special"; }).config.v;
  defaultLocation = (lib.evalModules { modules = [ { options.v = mkOption { }; } (lib.setDefaultModuleLocation "somewhere" { v = 1; }) ]; }).options.v.files;
  positions = map (p: p.line != null) (lib.evalModules { modules = [ { options.v = mkOption { default = 1; }; } ]; }).options.v.declarationPositions;
  optionAsString = "${(lib.evalModules { modules = [ { options.a.b = mkOption { default = 1; }; } ]; }).options.a.b}";
  withLocations = (lib.evalModules { modules = [ { options.v = mkOption { type = types.listOf types.int; }; } { _file = "a.nix"; v = [ 1 ]; } ]; }).options.v.definitionsWithLocations;
  ifAsModule = (lib.evalModules { modules = [ { options.v = mkOption { type = types.int; default = 1; }; } (lib.mkIf true { v = 2; }) ]; }).config;
  disabledByKey = (lib.evalModules { modules = [ { options.v = mkOption { default = 1; }; } { key = "k"; v = 2; } { disabledModules = [ { key = "k"; } ]; } ]; }).config;
  functorModule = (lib.evalModules { modules = [ { options.v = mkOption { type = types.str; }; } { __functor = self: { lib, ... }: { v = lib.toUpper "functor"; }; } ]; }).config.v;
}
