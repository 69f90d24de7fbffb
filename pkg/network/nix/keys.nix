# What keys add to a machine's configuration, as NixOps has it: a unit for each,
# keys.target behind all that come before the activation, and owners that exist
# by then.
{ config, lib, pkgs, ... }:

let
  inherit (lib) attrValues concatMapStrings escapeShellArg filter filterAttrs mapAttrs' mapAttrsToList mkIf nameValuePair stringAfter;
  inherit (config.deployment) keys;
  early = filterAttrs (_: key: key.uploadAt == "pre-activation") keys;

  # A key is missing for as long as somebody takes to send it; no event says so
  # where not even the folder is there.
  await = key: ''
    until [ -e ${escapeShellArg key.path} ]; do sleep 1; done
  '';
in
{
  _file = "nx/deployment";

  config = {
    assertions = lib.concatLists (mapAttrsToList (name: key: [
      {
        assertion = builtins.length (filter (source: source != null) [ key.keyCommand key.keyFile key.text ]) == 1;
        message = "Exactly one of text, keyFile and keyCommand of deployment.keys.${name} must be set.";
      }
      {
        assertion = key.decrypt == null || key.text == null;
        message = "deployment.keys.${name}.decrypt is for keyFile and keyCommand, not for text.";
      }
    ]) keys);

    systemd.services = mapAttrs' (name: key: nameValuePair "${name}-key" {
      description = "Key ${name}";
      unitConfig.RequiresMountsFor = key.destDir;
      serviceConfig = { TimeoutStartSec = "infinity"; Restart = "always"; RestartSec = "100ms"; };
      preStart = await key;
      # It ends when nothing has that name any more. Another file that takes the
      # name by a rename is followed instead, so a new key bounces no service. A
      # line of tail's says that the name is another file's, or nobody's.
      script = ''
        while read -r _ && [ -e ${escapeShellArg key.path} ]; do :; done < <(
          exec tail --follow=name --lines=0 --quiet ${escapeShellArg key.path} 2>&1 > /dev/null
        )
      '';
    }) keys // lib.optionalAttrs (early != { }) {
      nx-keys = {
        description = "Keys of the deployment";
        wantedBy = [ "keys.target" ];
        before = [ "keys.target" "shutdown.target" ];
        conflicts = [ "shutdown.target" ];
        # What is started early, such as a file system, may wait for keys.
        unitConfig.DefaultDependencies = false;
        serviceConfig = { Type = "oneshot"; RemainAfterExit = true; };
        # A switch finds the keys there already, or was told to do without.
        restartIfChanged = false;
        script = concatMapStrings await (attrValues early);
      };
    };

    # Until now a key belongs to root whose owner is made by this activation.
    system.activationScripts.nx-keys = mkIf (early != { }) (stringAfter
      (if config.system.activationScripts ? groups then [ "users" "groups" ] else [ "users" ])
      (concatMapStrings (key: ''
        if [ -e ${escapeShellArg key.path} ]; then
          chown --no-dereference ${escapeShellArg "${key.user}:${key.group}"} ${escapeShellArg key.path} &&
            chmod ${escapeShellArg key.permissions} ${escapeShellArg key.path} || true
        fi
      '') (attrValues early)));
  };
}
