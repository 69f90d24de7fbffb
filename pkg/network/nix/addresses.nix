# Where a machine is, for others to ask: IPv4 as NixOps 1.7 declares it, and IPv6
# alike. A host's record knows; without one, what needs it fails with the machine's name.
{ options, lib, name, ... }:

let
  inherit (lib) mkOption types;

  # No default: networks ask whether it is defined.
  private = version: mkOption {
    type = types.str;
    description = "IP${version} address that the network's other machines reach this one at.";
    apply = address:
      if options.networking."privateIP${version}".isDefined then address
      else throw "networking.privateIP${version} of ${name} is not known";
  };
  public = version: mkOption {
    type = types.nullOr types.str;
    default = null;
    description = "Public IP${version} address of the machine.";
  };
in
{
  _file = "nx/deployment";

  options.networking = {
    privateIPv4 = private "v4";
    privateIPv6 = private "v6";
    publicIPv4 = public "v4";
    publicIPv6 = public "v6";
  };
}
