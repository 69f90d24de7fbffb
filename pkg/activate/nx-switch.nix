# The NixOS module of nx-switch: users who are not root activate systems on this
# machine by one rule of sudo, and only systems that were signed.
#
# It was written by "nx-activate module" and has in it all that it needs: write it
# again when nx changes. nx-activate says when the two do not understand each other.
{ config, lib, pkgs, ... }:

with lib;

let
  cfg = config.nx.switch;

  program = pkgs.writeText "activate.sh" ''@activate.sh@'';
  door = pkgs.writeText "nx-switch.sh" ''@nx-switch.sh@'';

  # The keys that may be brought here: a line for each.
  key = { name, destDir, user, group, permissions, restartUnits ? [ ], mkDirs ? true, ... }:
    concatStringsSep "\t" [ user group permissions (if mkDirs then "yes" else "no") (if restartUnits == [ ] then "-" else concatStringsSep "," restartUnits) "${toString destDir}/${name}" ];
  secret = { destination, owner, permissions, mkDirs, ... }:
    key { inherit (owner) user group; inherit permissions mkDirs; name = baseNameOf destination; destDir = dirOf destination; };
  keys = map key (attrValues (config.deployment.keys or { })) ++ map secret (attrValues (config.deployment.secrets or { }));

  # bash -p takes no functions from the environment, and what follows gets none of it.
  nx-switch = pkgs.writeScriptBin "nx-switch" ''
    #!${pkgs.bash}/bin/bash -p
    exec ${pkgs.coreutils}/bin/env -i HOME=/root PATH=/run/current-system/sw/bin:/run/wrappers/bin \
      ${pkgs.bash}/bin/sh ${door} ${escapeShellArg (concatStringsSep " " cfg.keys)} ${program} "$@"
  '';
in
{
  options.nx.switch = {
    users = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "deploy" ];
      description = "Users who may activate signed systems on this machine.";
    };
    keys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "deploy-1:5Qx6rGFYGNZ8bKbLAMTPEdLuSJTEhSpb2wbbYWuSvLw=" ];
      description = "Public keys of which one must have signed a system. Who has the secret half of one is root here.";
    };
  };

  config = mkIf (cfg.users != [ ]) {
    assertions = [ {
      assertion = cfg.keys != [ ];
      message = "nx.switch.users is set and nx.switch.keys is not: no system could be activated.";
    } ];
    environment.systemPackages = [ nx-switch ];
    environment.etc."nx/keys".text = concatMapStrings (line: line + "\n") keys;
    # so that they can bring such systems here
    nix.extraOptions = "extra-trusted-public-keys = ${concatStringsSep " " cfg.keys}\n";
    security.sudo.extraRules = [ {
      users = cfg.users;
      commands = [ {
        command = "/run/current-system/sw/bin/nx-switch";
        options = [ "NOPASSWD" "NOSETENV" ];
      } ];
    } ];
  };
}
