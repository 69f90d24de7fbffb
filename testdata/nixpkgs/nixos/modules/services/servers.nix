# A few services by name. Each is a unit that starts a toy daemon and an
# account; its other options are accepted and not looked at.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  any = mkOption {
    type = types.attrsOf types.anything;
    default = { };
    description = "Accepted, without effect in the stand-in.";
  };
  accept = type: default: mkOption { inherit type default; description = "Accepted, without effect in the stand-in."; };
  ports = types.listOf types.port;
  words = types.listOf types.str;

  # name: the service's option, unit, account; options: what it has besides.
  server = { name, package, program, options ? { } }: {
    options.services.${name} = options // {
      enable = lib.mkEnableOption name;
      package = lib.mkPackageOption pkgs package { };
    };
    config =
      let cfg = config.services.${name}; in
      lib.mkIf cfg.enable {
        systemd.services.${name} = {
          description = "Toy ${name}";
          wantedBy = [ "multi-user.target" ];
          after = [ "network.target" ];
          serviceConfig.ExecStart = "${cfg.package}/bin/${program}";
        };
        users.users.${name} = { isSystemUser = true; group = name; };
        users.groups.${name} = { };
        environment.systemPackages = [ cfg.package ];
      };
  };
in
{
  imports = map server [
    {
      name = "httpd";
      package = "apacheHttpd";
      program = "httpd";
      options = { adminAddr = accept (types.nullOr types.str) null; virtualHosts = any; extraConfig = accept types.lines ""; };
    }
    {
      name = "nginx";
      package = "nginx";
      program = "nginx";
      options = {
        virtualHosts = any;
        upstreams = any;
        appendHttpConfig = accept types.lines "";
        recommendedGzipSettings = accept types.bool false;
        recommendedOptimisation = accept types.bool false;
        recommendedProxySettings = accept types.bool false;
        recommendedTlsSettings = accept types.bool false;
      };
    }
    {
      name = "postgresql";
      package = "postgresql";
      program = "postgres";
      options = {
        enableTCPIP = accept types.bool false;
        dataDir = accept types.path "/var/lib/postgresql";
        authentication = accept types.lines "";
        ensureDatabases = accept words [ ];
        ensureUsers = accept (types.listOf types.attrs) [ ];
        initialScript = accept (types.nullOr types.path) null;
        settings = any;
      };
    }
    {
      name = "redis";
      package = "redis";
      program = "redis-server";
      options = { port = accept types.port 6379; settings = any; };
    }
  ];
}
