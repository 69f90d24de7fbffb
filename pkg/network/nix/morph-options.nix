# The options of morph's networks: names, types and defaults are morph's.
{ config, lib, pkgs, ... }:

with lib;

let
  # Plain words only: 20.09 reads descriptions as DocBook, later ones as Markdown.
  option = type: description: mkOption { inherit type description; };
  optionWith = default: type: description: mkOption { inherit default type description; };
  words = types.listOf types.str;
  set = options: types.submodule { inherit options; };

  checks = set {
    cmd = optionWith [ ] (types.listOf (set ({
      cmd = optionWith null (types.nullOr words) "The command, run on the deploying machine.";
    } // common))) "Commands that must succeed.";
    http = optionWith [ ] (types.listOf (set ({
      host = optionWith null (types.nullOr types.str) "Whom to ask; the machine itself unless set.";
      scheme = optionWith "http" types.str "The scheme of the URL.";
      port = option types.int "The port.";
      path = optionWith "/" types.path "The path of the URL.";
      headers = optionWith { } (types.attrsOf types.str) "Headers of the request.";
      insecureSSL = optionWith false types.bool "Whether any certificate will do.";
    } // common))) "Requests that must succeed.";
  };
  common = {
    description = option types.str "What is checked.";
    period = optionWith 2 types.int "Seconds between two tries.";
    timeout = optionWith 5 types.int "Seconds that a try may take.";
  };
in
{
  _file = "nx/morph";

  options.deployment = {
    targetHost = optionWith "" types.str "Name or address that the machine is reached at.";
    targetPort = optionWith null (types.nullOr types.int) "Port of the machine's ssh server.";
    targetUser = optionWith "" types.str "Who logs in.";
    buildOnly = optionWith false types.bool "Whether the machine is only built, as it cannot be reached.";
    substituteOnDestination = optionWith false types.bool "Whether the machine fetches from its caches what they have.";
    tags = optionWith [ ] words "Words to choose machines by, as in --on @web.";
    secrets = optionWith { } (types.attrsOf (set {
      source = option types.str "The file with the contents, relative to the network file.";
      destination = option types.str "The file on the machine.";
      owner = optionWith { } (set {
        user = optionWith "root" types.str "Who owns the file.";
        group = optionWith "root" types.str "The group of the file.";
      }) "Whose the file is.";
      permissions = optionWith "0400" types.str "The mode of the file, as chmod understands it.";
      action = optionWith [ ] words "A command to run on the machine once the file is there.";
      mkDirs = optionWith true types.bool "Whether directories above the file are made.";
      uploadAt = optionWith "pre-activation" (types.enum [ "pre-activation" "post-activation" ])
        "When the file is brought to the machine.";
    })) "Files with secrets, which never enter the Nix store.";
    healthChecks = optionWith { } checks "What must hold once the machine is active.";
    preDeployChecks = optionWith { } checks "What must hold before it is made active.";
    # nx's own; in no manual, which the machine's derivation may depend on
    activation = (import ./activation-options.nix { inherit lib; }).activation // { visible = false; };
  };

  # Store paths that commands name come with the system. The text is morph's, as
  # the derivation depends on it.
  config.system.extraDependencies = [
    (pkgs.writeText "healthcheck-commands.txt" (concatStringsSep "\n"
      (concatMap (check: check.cmd) (config.deployment.preDeployChecks.cmd ++ config.deployment.healthChecks.cmd))))
  ];
}
