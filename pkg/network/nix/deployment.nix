# The options that NixOps networks use and NixOS does not have: how a machine is
# deployed, and what others may ask about it. Names, types and defaults are those
# of NixOps 1.7 and 2.0.
#
# The fixed _file keeps the place of this file out of derivations: NixOS' manual
# names the files that declare options when includeAllModules is set.
{ config, lib, ... }:

with lib;

let
  cfg = config.deployment;
  # Plain words only: 20.09 reads descriptions as DocBook, later ones as Markdown.
  option = type: description: mkOption { inherit type description; };
  optionWith = default: type: description: mkOption { inherit default type description; };

  key = { name, config, ... }: {
    options = {
      name = optionWith name types.str "Name of the file.";
      text = optionWith null (types.nullOr types.str) "The contents.";
      keyFile = optionWith null (types.nullOr (types.either types.path types.str))
        "A file on the deploying machine that has the contents; text that is no absolute path starts at --root.";
      keyCommand = optionWith null (types.nullOr (types.listOf types.str))
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
      permissions = optionWith "0600" types.str "The mode of the file, in octal.";

      # These are nx's own.
      uploadAt = optionWith "pre-activation" (types.enum [ "pre-activation" "post-activation" ])
        "When the file is brought to the machine.";
      decrypt = optionWith null (types.nullOr (types.enum [ "age" "sops" ]))
        "How what keyFile or keyCommand give is encrypted.";
      action = optionWith [ ] (types.listOf types.str) "A command that runs on the machine when the file has changed.";
      restartUnits = optionWith [ ] (types.listOf types.str) "Units that are restarted when the file has changed, if they run.";
    };
  };

  tunnel = { ... }: {
    options = {
      target = option types.str "Address of the other end.";
      targetPort = optionWith 22 types.int "Port of the ssh server of the other end.";
      privateKey = optionWith "/root/.ssh/id_charon_vpn" types.path "Private key to log in with.";
      localTunnel = option types.int "Number of the tunnel device at this end.";
      remoteTunnel = option types.int "Number of the tunnel device at the other end.";
      localIPv4 = option types.str "IPv4 address of this end.";
      remoteIPv4 = option types.str "IPv4 address of the other end.";
    };
  };

  luks = { ... }: {
    options = {
      device = option types.str "The encrypted device.";
      cipher = optionWith "aes-cbc-essiv:sha256" types.str "The cipher.";
      keySize = optionWith 128 types.int "The size of the key in bits.";
      passphrase = optionWith "" types.str "The passphrase; generated when empty.";
      autoFormat = optionWith false types.bool "Whether an empty device is formatted.";
    };
  };

  raid = { ... }: {
    options.devices = option (types.listOf types.str) "The devices to stripe over.";
  };

  # What is accepted so that a network evaluates, but would leave a machine
  # without the disks or links it counts on, is an error when it is used.
  missing = name: used: {
    assertion = !used;
    message = "deployment.${name} is not supported by nx.";
  };
in
{
  _file = "nx/deployment";

  imports = [ ./addresses.nix ./keys.nix ];

  options = {
    deployment = {
      targetEnv = optionWith "none" types.str
        "What the machine is: none for one that exists, or the provider that creates it.";
      targetHost = option types.str "Name or address that the machine is reached at.";
      targetPort = mkOption {
        type = types.int;
        default = head (config.services.openssh.ports ++ [ 22 ]);
        defaultText = "the first of services.openssh.ports";
        description = "Port of the machine's ssh server.";
      };
      targetUser = optionWith "root" types.str "Who logs in.";
      sshOptions = optionWith [ ] (types.listOf types.str) "Options for the OpenSSH client.";
      privilegeEscalationCommand = optionWith [ "sudo" "-H" "--" ] (types.listOf types.str)
        "Put before commands that need root when targetUser is somebody else.";
      provisionSSHKey = optionWith true types.bool "Whether the machine gets an ssh key pair of its own to log in with.";
      alwaysActivate = optionWith true types.bool
        "Accepted for NixOps' sake: a machine that runs its configuration, and boots it, is left alone.";
      hasFastConnection = optionWith false types.bool
        "Whether everything is copied to the machine rather than fetched by it from its caches.";
      owners = optionWith [ ] (types.listOf types.str) "Mail addresses of the machine's owners.";
      tags = optionWith [ ] (types.listOf types.str) "Words to choose machines by, as in --on @web.";

      keys = optionWith { } (types.attrsOf (types.submodule key)) "Files with secrets, which never enter the Nix store.";
      storeKeysOnMachine = optionWith false types.bool "Whether keys are kept in the machine's Nix store.";
      encryptedLinksTo = optionWith [ ] (types.listOf types.str) "Machines to have an encrypted tunnel to.";
      autoLuks = optionWith { } (types.attrsOf (types.submodule luks)) "Encrypted devices, opened at boot.";
      autoRaid0 = optionWith { } (types.attrsOf (types.submodule raid)) "Devices striped into one volume.";
      route53 = {
        accessKeyId = optionWith "" types.str "The access key to change the zone with.";
        hostName = optionWith "" types.str "The name the machine gets in DNS.";
        ttl = optionWith 300 types.int "How many seconds the name may be remembered.";
        usePublicDNSName = optionWith false types.bool "Whether the name is an alias of the public DNS name.";
      };

      name = option types.str "Name of the deployment. Set by nx.";
      uuid = option types.str "UUID of the deployment. Set by nx.";
      arguments = optionWith { } (types.attrsOf types.unspecified) "What the network was called with. Set by nx.";
    } // import ./activation-options.nix { inherit lib; } // genAttrs (import ./providers.nix) (provider:
      optionWith { } (types.attrsOf types.unspecified) "What the provider ${provider} makes of the machine.");

    networking = {
      vpnPublicKey = optionWith null (types.nullOr types.str) "Public key of the machine's end of encrypted links.";
      p2pTunnels.ssh = optionWith { } (types.attrsOf (types.submodule tunnel)) "Tunnels to other machines over ssh.";
    };
  };

  config.warnings = optional (cfg.sshOptions != [ ])
    "deployment.sshOptions has no effect: what ssh needs to know of a host stands in the ssh configuration.";

  config.assertions = [
    (missing "autoLuks" (cfg.autoLuks != { }))
    (missing "autoRaid0" (cfg.autoRaid0 != { }))
    (missing "encryptedLinksTo" (cfg.encryptedLinksTo != [ ]))
    (missing "storeKeysOnMachine" cfg.storeKeysOnMachine)
    (missing "route53" (cfg.route53.hostName != ""))
  ];
}
