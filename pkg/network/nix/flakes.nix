# What nx asks of a flake, behind the same interface as form.nix. No facts enter:
# a flake's derivations are those that any tool makes of it.
{
  flake
, format # flake for nixosConfigurations, colmena, nixops; "" for what the flake has
, arguments # what a network that is a function is called with
, system # "x86_64-linux": this machine's, which pure evaluation does not know
, deployment # { name, uuid }
}:

let
  inherit (builtins) attrNames elemAt filter functionArgs head intersectAttrs isFunction length tail;
  inherit (flake) outputs;

  record = import ./record.nix;
  colmenaAnswers = import ./colmena-answers.nix;

  call = f:
    if !isFunction f then f
    else f (if functionArgs f == { } then arguments else intersectAttrs (functionArgs f) arguments);

  lib = flake.inputs.nixpkgs.lib or (throw "the flake has no input nixpkgs, whose lib it would be");

  configurations = outputs.nixosConfigurations;
  deploy = outputs.deploy or { };

  # What deploy-rs is told of a machine: a profile's word over the node's, and
  # that over what is said of all.
  told = name:
    let node = deploy.nodes.${name};
    in if deploy ? nodes.${name} then deploy // node // node.profiles.system or { } else { };

  # What the configuration says itself, where it has such options.
  own = name:
    let inherit (configurations.${name}) options config;
    in if options ? deployment then config.deployment else { };

  # Options of that name are the configuration's own; keys are those that are as
  # NixOps' and colmena's.
  keysOf = cfg: record.where (key: key ? text && key ? keyFile && key ? keyCommand && key ? destDir) (cfg.keys or { });

  portOf = options:
    if length options < 2 then null
    else if head options == "-p" then builtins.fromJSON (elemAt options 1)
    else portOf (tail options);

  # deploy-rs puts the user behind its sudo, "sudo -u" unless told.
  words = text: filter (word: builtins.isString word && word != "") (builtins.split " " text);

  targetOf = name:
    let
      node = told name;
      cfg = own name;
    in record.given {
      host = node.hostname or cfg.targetHost or null;
      port = if node ? sshOpts then portOf node.sshOpts else cfg.targetPort or null;
      user = node.sshUser or cfg.targetUser or null;
      sudo = if node ? hostname then words (node.sudo or "sudo -u") ++ [ "root" ] else cfg.privilegeEscalationCommand or null;
    };

  nixos = {
    about = {
      form = "flake";
      description = "";
      enableRollback = false;
      machines = attrNames configurations;
      resources = [ ];
      warnings = map (name: "deploy.nodes.${name} is left out: nixosConfigurations has none of that name")
        (filter (name: !(configurations ? ${name})) (attrNames (deploy.nodes or { })));
    };

    scope = { nodes = configurations; resources = { }; inherit lib; };

    machine = rec {
      describe = name:
        let target = targetOf name;
        in {
          tags = (own name).tags or [ ];
          inherit target;
          deployment = record.given {
            targetEnv = "none";
            targetHost = target.host or null;
            targetPort = target.port or null;
            targetUser = target.user or null;
            privilegeEscalationCommand = target.sudo or null;
          };
        };
      describeFully = describe;

      system = name:
        let
          inherit (configurations.${name}.config.system.build) toplevel;
          node = told name;
          cfg = own name;
        in {
          inherit (toplevel) drvPath system;
          tags = cfg.tags or [ ];
          target = targetOf name;
          deployment = record.given {
            hasFastConnection = node.fastConnection or cfg.hasFastConnection or false;
            buildOnTarget = node.remoteBuild or cfg.buildOnTarget or false;
            autoRollback = node.autoRollback or null;
            magicRollback = node.magicRollback or null;
            successTimeout = node.confirmTimeout or null;
            switchTimeout = node.activationTimeout or null;
            keys = record.keys (keysOf cfg);
          };
        };

      texts = name: record.texts (keysOf (own name));
    };
  };

  # A hive that colmena.lib.makeHive evaluated.
  prepared =
    let hive = outputs.colmenaHive;
    in if !(hive ? __schema) then throw "colmenaHive is none that colmena.lib.makeHive made"
    else {
      about = {
        form = "colmena";
        description = hive.metaConfig.description or "";
        enableRollback = false;
        machines = attrNames hive.nodes;
        resources = [ ];
        warnings = [ ];
      };
      scope = { inherit (hive) nodes; resources = { }; inherit lib; };
      machine = rec {
        describe = colmenaAnswers.describe hive.nodes;
        describeFully = describe;
        system = colmenaAnswers.system (hive.metaConfig or { }) hive.nodes;
        texts = colmenaAnswers.texts hive.nodes;
      };
    };

  hive = import ./colmena.nix { hive = call outputs.colmena; file = flake.outPath + "/flake.nix"; hermetic = true; };

  network = import ./nixops.nix {
    flake = { file = flake.outPath + "/flake.nix"; network = outputs.nixopsConfigurations.default; inherit system; };
    facts = { };
    inherit arguments deployment;
  };

  forms = {
    flake = if outputs ? nixosConfigurations then nixos else throw "the flake has no nixosConfigurations";
    colmena =
      if outputs ? colmenaHive then prepared
      else if outputs ? colmena then hive
      else throw "the flake has neither colmenaHive nor colmena";
    nixops = if outputs ? nixopsConfigurations.default then network else throw "the flake has no nixopsConfigurations.default";
  };

  # Who lists the machines for deploy-rs deploys nixosConfigurations.
  seen =
    if outputs ? nixosConfigurations && deploy ? nodes then "flake"
    else if outputs ? colmenaHive || outputs ? colmena then "colmena"
    else if outputs ? nixopsConfigurations.default then "nixops"
    else if outputs ? nixosConfigurations then "flake"
    else throw "no network: the flake has none of nixosConfigurations, colmenaHive, colmena and nixopsConfigurations.default";

  form = forms.${if format == "" then seen else format};
in
form // {
  about = form.about // { nixpkgs = ""; own = flake.outPath; };
}
