# The options of colmena's hives: names, types and defaults are colmena's.
{ name, lib, ... }:

with lib;

let
  # Plain words only: 20.09 reads descriptions as DocBook, later ones as Markdown.
  optionWith = default: type: description: mkOption { inherit default type description; };
  words = types.listOf types.str;

  key = { name, config, ... }: {
    options = {
      name = optionWith name types.str "Name of the file.";
      text = optionWith null (types.nullOr types.str) "The contents.";
      keyFile = mkOption {
        type = types.nullOr types.path;
        default = null;
        apply = file: if file == null then null else toString file; # not copied to the store
        description = "A file on the deploying machine that has the contents.";
      };
      keyCommand = optionWith null (types.nullOr (types.addCheck words (command: command != [ ])))
        "A command run on the deploying machine that prints the contents.";
      destDir = optionWith "/run/keys" types.path "The directory on the machine that gets the file.";
      path = mkOption {
        type = types.path;
        default = "${config.destDir}/${config.name}";
        defaultText = "destDir/name";
        description = "The file on the machine.";
      };
      user = optionWith "root" types.str "Who owns the file.";
      group = optionWith "root" types.str "The group of the file.";
      permissions = optionWith "0600" types.str "The mode of the file, as chmod understands it.";
      uploadAt = optionWith "pre-activation" (types.enum [ "pre-activation" "post-activation" ])
        "When the file is brought to the machine.";
    };
  };
in
{
  _file = "nx/colmena";

  options.deployment = {
    targetHost = optionWith name (types.nullOr types.str)
      "Name or address that the machine is reached at; null where only the machine itself deploys.";
    targetPort = optionWith null (types.nullOr types.ints.unsigned) "Port of the machine's ssh server.";
    targetUser = optionWith "root" (types.nullOr types.str) "Who logs in.";
    allowLocalDeployment = optionWith false types.bool "Whether the machine may deploy itself.";
    buildOnTarget = optionWith false types.bool "Whether the machine builds its system.";
    tags = optionWith [ ] words "Words to choose machines by, as in --on @web.";
    keys = optionWith { } (types.attrsOf (types.submodule key)) "Files with secrets, which never enter the Nix store.";
    replaceUnknownProfiles = optionWith true types.bool
      "Whether a system that somebody else activated is replaced.";
    privilegeEscalationCommand = optionWith [ "sudo" "-H" "--" ] words
      "Put before commands that need root when targetUser is somebody else.";
    sshOptions = optionWith [ ] words "Options for the OpenSSH client.";
  }
  # nx's own; in no manual, which the machine's derivation may depend on
  // mapAttrs (_: option: option // { visible = false; }) (import ./activation-options.nix { inherit lib; });
}
