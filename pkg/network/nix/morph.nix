# Networks as morph defines them. Machines are evaluated as its eval-machines.nix
# does, so that they are the same derivations; the light evaluation is nx's own.
{
  network
, file # where it is from, for messages
, facts # { machines.<name>, resources.<type>.<name> }: what host records say
}:

let
  settings = network.network or { };
  pkgs = settings.pkgs or { };
  lib = settings.lib or pkgs.lib or (import <nixpkgs/lib>);
  nixpkgs = pkgs.path or <nixpkgs>;
  evalConfig = import (settings.evalConfig or (nixpkgs + "/nixos/lib/eval-config.nix"));
  specialArgs = settings.specialArgs or { };

  record = import ./record.nix;

  machineNames = builtins.attrNames
    (removeAttrs network [ "network" "defaults" "resources" "require" "_file" ]);

  known = import ./facts.nix { inherit lib facts; everywhere = true; };
  takesFacts = settings.facts or false;

  modules = nodes: check: name: [
    { _file = toString file; imports = [ network.${name} ]; }
    (network.defaults or { })
    ({ lib, ... }: {
      _file = "nx/network";
      key = "deploy-stuff";
      imports = [ ./morph-options.nix ];
      networking.hostName = lib.mkDefault name;
      deployment.targetHost = lib.mkDefault name;
      nixpkgs.pkgs = lib.mkIf (pkgs != { }) (lib.mkDefault pkgs);
      _module.args = { inherit name nodes; };
      _module = { inherit check; };
    })
  ] ++ lib.optionals takesFacts (known.modules name);

  # The configuration says which platform it is for. NixOS before 22.05 wants to
  # be told; there morph itself fails.
  system = if lib.versionOlder lib.version "22.05" then pkgs.system or builtins.currentSystem else null;

  evaluated = check: lib.genAttrs machineNames (name: evalConfig {
    inherit specialArgs system;
    modules = modules unchecked check name;
  });
  # What machines see of each other, unchecked, as a check would look at all of it.
  unchecked = evaluated false;
  nodes = evaluated true;

  light = lib.genAttrs machineNames (name: lib.evalModules {
    modules = modules light false name ++ [ ./light.nix ];
    specialArgs = { modulesPath = toString (nixpkgs + "/nixos/modules"); } // specialArgs;
  });

  # An empty user is whoever ssh logs in as.
  user = cfg: if cfg.targetUser == "" then null else cfg.targetUser;
  sudo = [ "sudo" "-n" "--" ];
  targetOf = cfg: record.given { host = cfg.targetHost; port = cfg.targetPort; user = user cfg; inherit sudo; };

  describe = nodes: name:
    let cfg = nodes.${name}.config.deployment;
    in {
      inherit (cfg) tags;
      target = targetOf cfg;
      deployment = record.given {
        targetEnv = "none";
        inherit (cfg) targetHost targetPort;
        targetUser = user cfg;
        privilegeEscalationCommand = sudo;
      };
    };

  key = { source, destination, owner, permissions, action, mkDirs, uploadAt, ... }:
    record.key { file = from source; } {
      inherit permissions action uploadAt;
      inherit (owner) user group;
      name = baseNameOf destination;
      destDir = dirOf destination;
    } // { inherit mkDirs; };
  from = source: if builtins.substring 0 1 source == "/" then source else "${toString (dirOf file)}/${source}";

  system' = name:
    let
      inherit (nodes.${name}) config;
      inherit (config.system.build) toplevel;
      cfg = config.deployment;
    in {
      inherit (toplevel) drvPath system;
      inherit (cfg) tags;
      target = targetOf cfg;
      deployment = record.activation { inherit (cfg) activation; } // {
        inherit (cfg) buildOnly substituteOnDestination;
        healthChecks = record.checks "deployment.healthChecks" cfg.healthChecks;
        preDeployChecks = record.checks "deployment.preDeployChecks" cfg.preDeployChecks;
        keys = lib.mapAttrs (_: key) cfg.secrets;
        ordering.tags = settings.ordering.tags or [ ];
        nixConfig = lib.mapAttrs (name: value:
          if builtins.isString value then value else throw "network.nixConfig.${name} is no string") (settings.nixConfig or { });
      };
      ofOthers = takesFacts && known.ofOthers name config;
    };
in
{
  about = {
    form = "morph";
    description = settings.description or "";
    enableRollback = false;
    nixpkgs = toString nixpkgs;
    machines = machineNames;
    resources = [ ];
    warnings = lib.optional (settings ? buildShell) "network.buildShell does nothing here"
      ++ lib.optional (network ? resources) "resources are NixOps': morph has none";
  };

  scope = { inherit nodes lib; resources = { }; };

  machine = {
    describe = describe light;
    describeFully = describe unchecked;
    system = system';
    texts = _: { };
  };
}
