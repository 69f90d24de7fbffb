# The activate script: system.activationScripts in the order of their deps.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  scripts = lib.mapAttrs (_: v: if lib.isString v then { text = v; deps = [ ]; supportsDryActivation = false; } else v)
    (removeAttrs config.system.activationScripts [ "script" ]);

  snippet = onlyDry: name: v: v // {
    text =
      if onlyDry && !v.supportsDryActivation then
        "#### Activation script snippet ${name} does not support dry activation."
      else lib.optionalString (v.text != "") ''
        #### Activation script snippet ${name}:
        _localstatus=0
        ${v.text}
        if (( _localstatus > 0 )); then
          printf "Activation script snippet '%s' failed (%s)\n" "${name}" "$_localstatus"
        fi
      '';
  };
  # A command that fails does not stop the script, but it makes it fail.
  script = onlyDry: ''
    #!/bin/bash
    systemConfig='@out@'
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin

    _status=0
    trap "_status=1 _localstatus=\$?" ERR

    # Ensure a consistent umask.
    umask 0022

    ${lib.concatStringsSep "\n" (lib.filter (text: text != "")
      (lib.textClosureList (lib.mapAttrs (snippet onlyDry) scripts) (lib.attrNames scripts)))}
  '' + lib.optionalString (!onlyDry) ''
    # Make this configuration the current configuration.
    ln -sfn "$(readlink -f "$systemConfig")" /run/current-system

    # Prevent it from being garbage-collected.
    mkdir -p /nix/var/nix/gcroots
    ln -sfn /run/current-system /nix/var/nix/gcroots/current-system

    exit $_status
  '';
in
{
  options.system = {
    activationScripts = mkOption {
      default = { };
      description = "Shell scripts that run at every switch and boot.";
      type = types.attrsOf (types.either types.str (types.submodule {
        options = {
          deps = mkOption { type = types.listOf types.str; default = [ ]; description = "The scripts it runs after."; };
          text = mkOption { type = types.lines; description = "The script."; };
          supportsDryActivation = mkOption { type = types.bool; default = false; description = "Whether dry-activate runs it too."; };
        };
      }));
      apply = set: set // { script = script false; };
    };
    dryActivationScript = mkOption {
      type = types.str;
      readOnly = true;
      internal = true;
      default = script true;
      description = "What dry-activate runs.";
    };
    userActivationScripts = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      description = "Accepted, without effect in the stand-in.";
    };
  };

  config.system.activationScripts = {
    # Names that other scripts may depend on.
    specialfs = "";
    usrbinenv = "";
    var = ''
      mkdir -m 1777 -p /var/tmp
      mkdir -m 0555 -p /var/empty
    '';
  };
}
