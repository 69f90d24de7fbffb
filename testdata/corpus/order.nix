# The order of what is merged.
{ lib }:
let
  inherit (lib) mkAfter mkBefore mkIf mkMerge mkOption mkOrder types;
  list = modules: (lib.evalModules { modules = [ { options.l = mkOption { type = types.listOf types.str; default = [ ]; }; } ] ++ modules; }).config.l;
  lines = modules: (lib.evalModules { modules = [ { options.l = mkOption { type = types.lines; default = ""; }; } ] ++ modules; }).config.l;
in
{
  modulesInReverse = list [ { l = [ "first" ]; } { l = [ "second" ]; } { l = [ "third" ]; } ];
  importsFirst = list [ { imports = [ { l = [ "imported" ]; } ]; l = [ "importing" ]; } ];
  importsOfTwo = list [
    { imports = [ { l = [ "a1" ]; } { l = [ "a2" ]; } ]; l = [ "a" ]; }
    { imports = [ { l = [ "b1" ]; } ]; l = [ "b" ]; }
  ];
  before = list [ { l = mkBefore [ "x" ]; } { l = [ "y" ]; } { l = mkAfter [ "z" ]; } ];
  numbers = list [ { l = mkOrder 1001 [ "late" ]; } { l = [ "plain" ]; } { l = mkOrder 999 [ "early" ]; } ];
  ordersOfOneModule = list [ { l = mkMerge [ (mkAfter [ "last" ]) [ "middle" ] (mkBefore [ "first" ]) ]; } ];
  orderInIf = list [ { l = [ "a" ]; } { l = mkIf true (mkBefore [ "b" ]); } ];
  lines = lines [ { l = "one"; } { l = mkBefore "zero"; } { l = "two"; } { l = mkAfter "end"; } ];
  linesOfMerge = lines [ { l = mkMerge [ "a" "b" ]; } ];
}
