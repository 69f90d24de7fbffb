# The OpenSSH daemon. The host's own sshd goes on running with its own
# configuration, which reads /etc/ssh/sshd_config.d if it includes that.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.openssh;
  option = type: default: mkOption { inherit type default; description = "Accepted, without effect in the stand-in."; };
  value = v: if lib.isBool v then (if v then "yes" else "no") else if lib.isList v then toString v else toString v;
  setting = type: default: mkOption { inherit type default; description = "See sshd_config(5)."; };
  renamed = from: to: lib.mkRenamedOptionModule [ "services" "openssh" from ] [ "services" "openssh" "settings" to ];

  withKeys = lib.filterAttrs (_: u: u.openssh.authorizedKeys.keys != [ ] || u.openssh.authorizedKeys.keyFiles != [ ]) config.users.users;
in
{
  imports = [
    (renamed "permitRootLogin" "PermitRootLogin")
    (renamed "passwordAuthentication" "PasswordAuthentication")
    (renamed "kbdInteractiveAuthentication" "KbdInteractiveAuthentication")
    (lib.mkAliasOptionModule [ "services" "sshd" "enable" ] [ "services" "openssh" "enable" ])
    (lib.mkAliasOptionModule [ "services" "openssh" "knownHosts" ] [ "programs" "ssh" "knownHosts" ])
  ];

  options.services.openssh = {
    enable = lib.mkEnableOption "the OpenSSH secure shell daemon";
    ports = mkOption {
      type = types.listOf types.port;
      default = [ 22 ];
      description = "The ports that sshd listens on, besides those of the host's own configuration.";
    };
    openFirewall = option types.bool true;
    startWhenNeeded = option types.bool false;
    listenAddresses = option (types.listOf types.attrs) [ ];
    allowSFTP = option types.bool true;
    hostKeys = option (types.listOf types.attrs) [ { type = "ed25519"; path = "/etc/ssh/ssh_host_ed25519_key"; } ];
    authorizedKeysInHomedir = option types.bool true;
    authorizedKeysFiles = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "More files of authorized keys.";
    };
    extraConfig = mkOption {
      type = types.lines;
      default = "";
      description = "More lines of the configuration.";
    };
    settings = mkOption {
      default = { };
      description = "The configuration.";
      type = types.submodule {
        freeformType = types.attrsOf (types.nullOr (types.oneOf [ types.bool types.int types.str (types.listOf types.str) ]));
        options = {
          PermitRootLogin = setting (types.enum [ "yes" "without-password" "prohibit-password" "forced-commands-only" "no" ]) "prohibit-password";
          PasswordAuthentication = setting types.bool true;
          KbdInteractiveAuthentication = setting types.bool true;
          X11Forwarding = setting types.bool false;
        };
      };
    };
  };

  config = lib.mkMerge [ {
    # What a configuration says of the unit is for the real one, unless it says
    # what to run.
    systemd.services.sshd.enable = let unit = config.systemd.services.sshd; in
      lib.mkDefault (unit.script != "" || unit.serviceConfig ? ExecStart);
  } (lib.mkIf cfg.enable {
    services.openssh.authorizedKeysFiles =
      lib.optional cfg.authorizedKeysInHomedir "%h/.ssh/authorized_keys" ++ [ "/etc/ssh/authorized_keys.d/%u" ];
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall cfg.ports;

    environment.etc = {
      "ssh/sshd_config.d/nixos.conf".text =
        lib.concatMapStrings (port: "Port ${toString port}\n") (lib.remove 22 cfg.ports)
        + "AuthorizedKeysFile ${toString cfg.authorizedKeysFiles}\n"
        + lib.concatStrings (lib.mapAttrsToList (name: v: "${name} ${value v}\n") (lib.filterAttrs (_: v: v != null) cfg.settings))
        + cfg.extraConfig;
    } // lib.mapAttrs' (_: u: lib.nameValuePair "ssh/authorized_keys.d/${u.name}" {
      # Copied, not linked: sshd wants no group-writable directory above it, and
      # /nix/store can be one.
      mode = "0444";
      text = lib.concatMapStrings (key: key + "\n") u.openssh.authorizedKeys.keys
        + lib.concatMapStrings builtins.readFile u.openssh.authorizedKeys.keyFiles;
    }) withKeys;
  }) ];
}
