# Adds one to the sum each time it is counted in.
{ lib, ... }:
{
  options.sum = lib.mkOption { type = lib.types.listOf lib.types.int; default = [ ]; };
  config.sum = [ 1 ];
}
