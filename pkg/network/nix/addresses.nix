# Where a machine is, for others to ask, as NixOps 1.7 declares it. A host's
# record knows; without one, what needs it fails with the machine's name.
{ options, lib, name, ... }:

let
  inherit (lib) mkOption types;
in
{
  _file = "nx/deployment";

  options.networking = {
    privateIPv4 = mkOption {
      type = types.str;
      description = "IPv4 address that the network's other machines reach this one at.";
      # No default: networks ask whether it is defined.
      apply = address:
        if options.networking.privateIPv4.isDefined then address else throw "networking.privateIPv4 of ${name} is not known";
    };
    publicIPv4 = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "Public IPv4 address of the machine.";
    };
  };
}
