{ lib, ... }:
{ documentation.enable = lib.mkDefault false; }
