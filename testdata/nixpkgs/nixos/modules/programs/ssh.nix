# The OpenSSH client, as far as it is told of other hosts' keys.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.programs.ssh;
  option = type: default: mkOption { inherit type default; description = "Accepted, without effect in the stand-in."; };

  host = { name, config, ... }: {
    options = {
      certAuthority = mkOption { type = types.bool; default = false; description = "Whether the key is a certificate authority's."; };
      hostNames = mkOption {
        type = types.listOf types.str;
        default = [ name ] ++ config.extraHostNames;
        description = "The names and addresses of the host.";
      };
      extraHostNames = mkOption { type = types.listOf types.str; default = [ ]; description = "More of them."; };
      publicKey = mkOption { type = types.nullOr types.str; default = null; description = "The key, with its type."; };
      publicKeyFile = mkOption { type = types.nullOr types.path; default = null; description = "A file with the key."; };
    };
  };
  line = h: lib.optionalString h.certAuthority "@cert-authority " + lib.concatStringsSep "," h.hostNames + " "
    + (if h.publicKey != null then h.publicKey else builtins.readFile h.publicKeyFile) + "\n";
in
{
  options.programs.ssh = {
    startAgent = option types.bool false;
    extraConfig = option types.lines "";
    knownHosts = mkOption {
      type = types.attrsOf (types.submodule host);
      default = { };
      description = "The keys of other hosts.";
    };
  };

  config = {
    assertions = lib.mapAttrsToList (name: h: {
      assertion = (h.publicKey == null) != (h.publicKeyFile == null);
      message = "knownHost ${name} must contain either a publicKey or publicKeyFile";
    }) cfg.knownHosts;

    # Without any, the host keeps the file that it has.
    environment.etc."ssh/ssh_known_hosts" = lib.mkIf (cfg.knownHosts != { }) {
      text = lib.concatMapStrings line (lib.attrValues cfg.knownHosts);
    };
  };
}
