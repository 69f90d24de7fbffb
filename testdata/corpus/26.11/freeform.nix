# Definitions without an option, where a module takes them.
{ lib }:
let
  inherit (lib) mkDefault mkForce mkIf mkOption types;
  eval = modules: (lib.evalModules { inherit modules; }).config;
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  free = type: { freeformType = type; };
in
{
  ints = eval [ (free (types.attrsOf types.int)) { a = 1; } { b = 2; } ];
  wrongType = fails (eval [ (free (types.attrsOf types.int)) { a = "x"; } ]);
  besideOptions = eval [ (free (types.attrsOf types.int)) { options.s = mkOption { type = types.str; default = "s"; }; } { config.a = 1; } ];
  nestedOption = eval [ (free (types.attrsOf (types.attrsOf types.int))) { options.n.o = mkOption { type = types.int; default = 1; }; } { n.p = 2; m.q = 3; } ];
  conflict = fails (eval [ (free (types.attrsOf types.int)) { a = 1; } { a = 2; } ]);
  priorities = eval [ (free (types.attrsOf types.int)) { a = mkDefault 1; b = 1; } { a = 2; b = mkForce 3; c = mkIf false 4; } ];
  inSubmodule = eval [
    { options.settings = mkOption { type = types.submodule { freeformType = types.attrsOf types.str; options.port = mkOption { type = types.port; default = 80; }; }; default = { }; }; }
    { settings.host = "h"; }
    { settings.port = 81; }
  ];
  setByConfig = eval [ { config._module.freeformType = types.attrsOf types.int; } { a = 1; } ];
  anything = eval [ (free types.anything) { a.b.c = [ 1 ]; } { a.b.d = "x"; } ];
  lazy = (eval [ (free (types.lazyAttrsOf types.int)) { a = 1; } { b = throw "looked at"; } ]).a;
  nothing = eval [ (free (types.attrsOf types.int)) ];
}
