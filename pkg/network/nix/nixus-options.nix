# The options of nixus' networks: names, types and defaults are nixus'. What it
# has besides, such as vpn and dns, needs nixus itself: nx reads its derivations.
{ config, options, lib, system, ... }:

let
  inherit (lib) mkOption types;
  option = type: description: mkOption { inherit type description; };
  optionWith = default: type: description: mkOption { inherit default type description; };

  # How a machine is reached from one that deploys.
  access = {
    host = option types.str "How ssh reaches the machine, as USER@HOST. The user is root or may become root without a password.";
    hasFastConnection = optionWith false types.bool
      "Whether everything is copied to the machine rather than fetched by it from its caches.";
  };

  allNodes = lib.mapAttrs (_: node: node.configuration) config.nodes;

  # What nixus adds to a machine's configuration.
  added = { config, lib, pkgs, ... }: {
    _file = "nx/nixus";
    options = {
      _pkgs = mkOption { readOnly = true; internal = true; default = pkgs; };
      secrets = {
        baseDirectory = optionWith "/var/lib/nixus-secrets" types.path "The directory on the machine that has the secrets.";
        files = optionWith { } (types.attrsOf (types.submodule (secret pkgs config.secrets.baseDirectory)))
          "Files with secrets, which never enter the Nix store.";
      };
    };
    # A sshd that is only restarted would keep connections that a new one refuses.
    config.systemd.services = lib.mkIf (!config.services.openssh.startWhenNeeded) {
      sshd.stopIfChanged = lib.mkForce true;
    };
  };

  # In the configuration a secret is a link to where it will be, which changes
  # with its contents, as in nixus.
  secret = pkgs: base: { name, config, ... }: {
    options = {
      file = mkOption {
        type = types.path;
        description = "The file on the deploying machine that has the contents.";
        apply = file: pkgs.runCommand "secret-${name}" {
          file = toString file;
          secretHash = builtins.hashFile "sha512" file;
        } "ln -s ${lib.escapeShellArg "${base}/active/${place name config}/${name}"} \"$out\"\n";
      };
      user = optionWith null (types.nullOr types.str) "The user who may read it: root, unless a group may.";
      group = optionWith null (types.nullOr types.str) "The group that may read it.";
    };
  };
  place = name: { user, group, ... }:
    if user != null && group != null then throw "secrets.files.${name} has both a user and a group"
    else if group != null then "per-group/${group}"
    else "per-user/${if user == null then "root" else user}";

  # The type of a configuration, with the nixpkgs of the machine itself.
  configurationOf = nixpkgs: name:
    let
      specialLib = import (nixpkgs + "/lib");
      baseModules = import (nixpkgs + "/nixos/modules/module-list.nix");
      evaluated = import (nixpkgs + "/nixos/lib/eval-config.nix") {
        inherit system;
        specialArgs.lib = specialLib;
        # Forced over the name that the module system gives, which nixus leaves undecided.
        modules = [ added { _module.args = { name = lib.mkForce name; nodes = allNodes; }; } ];
      };
    in
    # NixOS before 22.05 has no such type.
    evaluated.type or (types.submoduleWith {
      specialArgs = { lib = specialLib; nodes = allNodes; inherit name baseModules; modulesPath = nixpkgs + "/nixos/modules"; };
      modules = baseModules ++ [
        ({ lib, config, ... }: {
          nixpkgs.system = lib.mkDefault system;
          _module.args.pkgs = lib.mkDefault (import nixpkgs {
            inherit (config.nixpkgs) config overlays localSystem crossSystem;
          });
        })
        added
      ];
    });

  node = { name, config, ... }: {
    options = access // import ./activation-options.nix { inherit lib; } // {
      enable = optionWith true types.bool "Whether the machine is deployed.";
      nixpkgs = option types.path "The nixpkgs of the machine.";
      configuration = mkOption {
        type = configurationOf config.nixpkgs name;
        default = { };
        description = "The configuration of the machine.";
      };
      privilegeEscalationCommand = optionWith [ "sudo" ] (types.listOf types.str) "Put before commands that need root.";
      successTimeout = optionWith 20 types.ints.unsigned "Seconds that the machine waits for the deploying one's confirmation.";
      switchTimeout = optionWith 60 types.ints.unsigned "Seconds that switching may take.";
      ignoreFailingSystemdUnits = optionWith false types.bool "Whether failing units are no failure.";
      deployFrom = optionWith { } (types.attrsOf (types.submodule { options = access; }))
        "How the machine is reached from the one that deployHost names.";
    };
    config =
      let from = config.deployFrom.${toString topHost}; # only looked at where there is one
      in {
        _module.args.pkgs = config.configuration._pkgs;
        # Over what is said of all deploying machines, below what is forced.
        host = lib.mkIf (isFrom config) (lib.mkOverride 75 from.host);
        hasFastConnection = lib.mkIf (isFrom config) (lib.mkOverride 75 from.hasFastConnection);
        deployFrom.${name} = { host = "root@localhost"; hasFastConnection = true; };
      };
  };
  topHost = config.deployHost;
  isFrom = node: topHost != null && node.deployFrom ? ${topHost};
in
{
  _file = "nx/nixus";

  options = {
    # Modules may add to it: its type is what the nodes are made of.
    defaults = optionWith { } (types.submodule node) "What all machines have.";
    nodes = optionWith { } (types.attrsOf (types.submodule
      (options.defaults.type.getSubModules ++ options.defaults.definitions))) "The machines.";
    # nx's own. A file that nixus reads too declares it, with a default.
    network.facts = mkOption { type = types.bool; };
    deployHost = optionWith null (types.nullOr types.str) "The machine that deploys, if deployFrom tells them apart.";
  };
}
