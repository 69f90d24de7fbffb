# What deployment.nix reads of NixOS' options, for evaluations without NixOS'
# modules. Definitions of all else are ignored; reading all else is an error.
{ lib, ... }:

with lib;

{
  _file = "nx/light";

  options = {
    warnings = mkOption { type = types.listOf types.str; default = [ ]; };
    assertions = mkOption { type = types.listOf types.unspecified; default = [ ]; };
    networking.hostName = mkOption { type = types.str; };
    services.openssh.ports = mkOption { type = types.listOf types.int; default = [ 22 ]; };
  };

  config = {
    _module.check = false;
    _module.args.pkgs = throw "pkgs is not there in a light evaluation";
  };
}
