# What colmena adds to a machine's configuration for its keys. The shell text is
# colmena's own (MIT, copyright 2020-2022 Zhaofeng Li and the Colmena contributors), to the byte: the derivations
# depend on it.
{ name, config, lib, pkgs, ... }:

let
  inherit (config.deployment) keys;
  sources = key: lib.filter (source: source != null) [ key.text key.keyCommand key.keyFile ];
  early = lib.filterAttrs (_: key: key.uploadAt == "pre-activation") keys;
  chown = key:
    let path = "${key.destDir}/${key.name}";
    in ''
      if [ -f "${path}" ]; then
        if ! chown ${key.user}:${key.group} "${path}"; then
          # Error should be visible in stderr
          failed=1
        fi
      else
        >&2 echo "Key ${path} does not exist. Skipping chown."
      fi
    '';
in
{
  _file = "nx/colmena";

  assertions = lib.mapAttrsToList (key: value: {
    assertion = builtins.length (sources value) == 1;
    message = "Exactly one of text, keyFile and keyCommand of ${name}.deployment.keys.${key} must be set.";
  }) keys;

  # Keys that are there before the accounts are belong to root until now.
  system.activationScripts.colmena-chown-keys = lib.mkIf (early != { }) (lib.stringAfter
    (if config.system.activationScripts ? groups then [ "groups" ] else [ "users" ]) ''
      # This script is injected by Colmena to change the ownerships
      # of keys (`deployment.keys`) deployed before system activation.

      >&2 echo "setting up key ownerships..."

      # We set the ownership of as many keys as possible before failing
      failed=

      ${lib.concatStringsSep "\n" (map chown (lib.attrValues early))}

      if [ -n "$failed" ]; then
        >&2 echo "Failed to set the ownership of some keys."

        # The activation script has a trap to handle failed
        # commands and print out various debug information.
        # Let's trigger that instead of `exit 1`.
        false
      fi
    '');

  # NAME-key.service runs while the key is there.
  systemd.paths = lib.mapAttrs' (name: key: lib.nameValuePair "${name}-key" {
    wantedBy = [ "paths.target" ];
    pathConfig.PathExists = key.path;
  }) keys;

  systemd.services = lib.mapAttrs' (name: key: lib.nameValuePair "${name}-key" {
    enable = true;
    serviceConfig = { TimeoutStartSec = "infinity"; Restart = "always"; RestartSec = "100ms"; };
    path = [ pkgs.inotify-tools ];
    preStart = ''
      (while read f; do if [ "$f" = "${key.name}" ]; then break; fi; done \
        < <(inotifywait -qm --format '%f' -e create,move ${key.destDir}) ) &
      if [[ -e "${key.path}" ]]; then
        echo 'flapped down'
        kill %1
        exit 0
      fi
      wait %1
    '';
    script = ''
      inotifywait -qq -e delete_self "${key.path}" &
      if [[ ! -e "${key.path}" ]]; then
        echo 'flapped up'
        exit 0
      fi
      wait %1
    '';
  }) keys;
}
