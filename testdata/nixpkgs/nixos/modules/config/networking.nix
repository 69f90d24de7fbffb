# Names and addresses. /etc/hostname and /etc/hosts are written; the host keeps
# its interfaces, routes and firewall as they are.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.networking;
  option = type: default: mkOption { inherit type default; description = "Accepted, without effect in the stand-in."; };
  flag = option types.bool;
  ports = option (types.listOf types.port) [ ] // { apply = list: lib.unique (lib.sort lib.lessThan list); };
  ranges = option (types.listOf (types.attrsOf types.port)) [ ];
  addresses = option (types.listOf (types.submodule {
    options = {
      address = mkOption { type = types.str; description = "The address."; };
      prefixLength = mkOption { type = types.ints.between 0 128; description = "The length of its network's prefix."; };
    };
  })) [ ];
  gateway = option (types.nullOr (types.coercedTo types.str (address: { inherit address; }) (types.submodule {
    options = {
      address = mkOption { type = types.str; description = "The address."; };
      interface = option (types.nullOr types.str) null;
      metric = option (types.nullOr types.int) null;
    };
  }))) null;
in
{
  options.networking = {
    hostName = mkOption {
      type = types.strMatching "^$|^[[:alnum:]]([[:alnum:]_-]{0,61}[[:alnum:]])?$";
      default = "nixos";
      description = "The name of the machine.";
    };
    domain = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "The domain of the machine.";
    };
    fqdn = mkOption {
      type = types.str;
      readOnly = true;
      default = if cfg.domain != null then "${cfg.hostName}.${cfg.domain}" else throw ''
        The FQDN is required but cannot be determined from `networking.hostName`
        and `networking.domain`. Please ensure these options are set properly or
        set `networking.fqdn` directly.
      '';
      description = "The full name of the machine.";
    };
    hosts = mkOption {
      type = types.attrsOf (types.listOf types.str);
      default = { };
      description = "Names by address, for /etc/hosts.";
    };
    extraHosts = mkOption {
      type = types.lines;
      default = "";
      description = "More lines of /etc/hosts.";
    };
    hostId = option (types.nullOr types.str) null;
    enableIPv6 = flag true;
    useDHCP = flag true;
    useNetworkd = flag false;
    usePredictableInterfaceNames = flag true;
    dhcpcd.enable = flag true;
    networkmanager.enable = flag false;
    wireless.enable = flag false;
    nameservers = option (types.listOf types.str) [ ];
    search = option (types.listOf types.str) [ ];
    timeServers = option (types.listOf types.str) [ ];
    defaultGateway = gateway;
    defaultGateway6 = gateway;
    nat = { enable = flag false; externalInterface = option (types.nullOr types.str) null; internalInterfaces = option (types.listOf types.str) [ ]; };
    interfaces = option (types.attrsOf (types.submodule {
      options = {
        useDHCP = option (types.nullOr types.bool) null;
        ipv4.addresses = addresses;
        ipv6.addresses = addresses;
        macAddress = option (types.nullOr types.str) null;
        mtu = option (types.nullOr types.int) null;
      };
    })) { };
    firewall = {
      enable = flag true;
      allowPing = flag true;
      allowedTCPPorts = ports;
      allowedUDPPorts = ports;
      allowedTCPPortRanges = ranges;
      allowedUDPPortRanges = ranges;
      trustedInterfaces = option (types.listOf types.str) [ ];
      extraCommands = option types.lines "";
      interfaces = option (types.attrsOf (types.submodule {
        options = { allowedTCPPorts = ports; allowedUDPPorts = ports; };
      })) { };
    };
  };

  config.networking.hosts = {
    "127.0.0.1" = [ "localhost" ];
    "::1" = [ "localhost" ];
    "127.0.0.2" = lib.mkIf (cfg.hostName != "") (lib.optional (cfg.domain != null) "${cfg.hostName}.${cfg.domain}" ++ [ cfg.hostName ]);
  };
  config.environment.etc = {
    hostname = lib.mkIf (cfg.hostName != "") { text = cfg.hostName + "\n"; };
    hosts.text = lib.concatStrings (lib.mapAttrsToList (address: names: "${address} ${toString names}\n")
      (lib.filterAttrs (_: names: names != [ ]) cfg.hosts)) + cfg.extraHosts;
  };
}
