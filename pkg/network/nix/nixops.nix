# Networks as NixOps 1.7 and 2.0 define them: attribute sets, or functions to
# such, merged name by name.
{
  files ? [ ] # paths, in the order given
, flake ? null # { file, network, system }: what a flake has instead of files
, arguments # what network functions are called with
, deployment # { name, uuid }
, facts # { machines.<name>, resources.<type>.<name> }: what host records say
}:

let
  inherit (builtins)
    attrNames attrValues catAttrs concatLists concatMap elem filter foldl' functionArgs genericClosure
    head intersectAttrs isAttrs isFunction listToAttrs map mapAttrs;

  optional = condition: value: if condition then [ value ] else [ ];
  names = sets: attrNames (foldl' (all: set: all // set) { } sets);
  genAttrs = keys: f: listToAttrs (map (name: { inherit name; value = f name; }) keys);

  # As Nix calls a function automatically: the arguments it names, or all where
  # it takes any. Nix itself says which one is missing.
  call = f:
    if !isFunction f then f
    else f (if functionArgs f == { } then arguments else intersectAttrs (functionArgs f) arguments);

  load = file:
    let network = call (import file);
    in if isAttrs network then { inherit file network; }
    else throw "${toString file} is a ${builtins.typeOf network}, not a set of machines";

  # The files with those they require, each once.
  loaded = if flake != null then [ { inherit (flake) file; network = call flake.network; } ]
  else map ({ file, ... }: load file) (genericClosure {
    startSet = map (file: { key = toString file; inherit file; }) files;
    operator = { file, ... }: map (file: { key = toString file; inherit file; })
      ((load file).network.require or [ ]);
  });
  networks = catAttrs "network" loaded;

  reserved = [ "network" "defaults" "resources" "require" "nixpkgs" "_file" ];
  machineNames = filter (name: !elem name reserved) (names networks);

  # Attributes of the network itself; a later file wins.
  settings = foldl' (all: set: all // set) { } (catAttrs "network" networks);

  nixpkgs =
    let
      named = if flake != null then flakeInput else settings.nixpkgs or <nixpkgs>;
      # A nixpkgs that was imported knows where it came from; a source that was
      # fetched, by niv or fetchGit, is where it is.
      path = toString (if isAttrs named then named.outPath or named.path else named);
      # With symlinks resolved, where Nix does that for <nixpkgs> too: options.json
      # of the manual has other declarations through a link.
      found = builtins.findFile [ { prefix = "nixpkgs"; inherit path; } ] "nixpkgs";
    in
    if builtins.substring 0 1 path == "/" && !builtins.pathExists path then
      throw "network.nixpkgs is ${path}, which does not exist"
    else if !builtins.pathExists (found + "/nixos/lib/eval-config.nix") then
      throw "${toString found} is no nixpkgs: it has no nixos/lib/eval-config.nix"
    else found;
  lib = if flake != null then flakeInput.lib else import (nixpkgs + "/lib");
  evalConfig =
    if flake == null then import ./shared.nix nixpkgs
    # As NixOps 2: the flake's own nixosSystem, for this machine's platform unless told.
    else { modules, specialArgs }: flakeInput.lib.nixosSystem {
      inherit specialArgs;
      modules = modules ++ [ { _file = "nx/network"; nixpkgs.system = lib.mkDefault flake.system; } ];
    };
  flakeInput = (head networks).nixpkgs or (throw "nixopsConfigurations.default has no nixpkgs");

  # Give a module the file that messages name. It is not wrapped in another
  # module's imports: that would reorder the definitions of lists.
  located = file: module:
    if isFunction module then
      lib.setFunctionArgs (args: located file (module args)) (lib.functionArgs module)
    else if isAttrs module && !(module ? _type) && !(module ? _file) && !(module ? __functor) then
      { _file = toString file; } // module
    else module;

  # All modules called name in the files, in order.
  modulesOf = name: concatMap
    ({ file, network }: optional (network ? ${name}) (located file (checked name file network.${name}))) loaded;

  # What is no module at all the module system would blame on this file.
  checked = name: file: module:
    if elem (builtins.typeOf module) [ "lambda" "set" "path" "string" ] then module
    else throw "${name} is a ${builtins.typeOf module}, not a module, in ${toString file}";

  # What the records say stands where NixOps has its physical.nix: behind the files.
  machineModules = name: modulesOf name ++ factsAbout name ++ modulesOf "defaults" ++ [
    ./deployment.nix
    ./digitalocean.nix
    {
      _file = "nx/network";
      networking.hostName = lib.mkOverride 900 name;
      deployment = {
        inherit (deployment) name uuid;
        inherit arguments;
        targetHost = lib.mkOverride 900 name;
      };
    }
  ];

  # What the records know are modules of their own, only where they know
  # something: without, a machine is what its files say and no more.
  factsAbout = name:
    let fact = facts.machines.${name} or { };
    in optional (facts ? machines) (known.module name)
    ++ optional (fact ? targetHost) { _file = "nx/facts"; deployment.targetHost = lib.mkForce fact.targetHost; };

  known = import ./facts.nix { inherit lib facts; everywhere = settings.facts or false; };

  # What machines see of each other, evaluated in full or lightly.
  world = evaluate:
    let
      nodes = genAttrs machineNames machine;
      defined = mapAttrs (type: mapAttrs (name: _: define { inherit type name nodes resources; })) resourceDefinitions;
      resources = mapAttrs (type: mapAttrs (name: withFacts type name)) defined // {
        machines = mapAttrs (name: node: node.config // { _type = "machines"; _name = name; }) nodes;
      };
      # Special arguments, so that imports may depend on them.
      machine = name: evaluate (machineModules name) {
        inherit name nodes resources;
        deploymentName = deployment.name;
        inherit (deployment) uuid;
      };
    in
    { inherit machine nodes resources defined; };

  full = world (modules: specialArgs: evalConfig { inherit modules specialArgs; });

  # Only what nx declares, none of NixOS' modules: a hundred times as fast, enough
  # for most machines' deployment options. What looks further fails, and is asked
  # again in full.
  light = world (modules: specialArgs: lib.evalModules {
    modules = modules ++ [ ./light.nix ];
    specialArgs = { modulesPath = toString (nixpkgs + "/nixos/modules"); } // specialArgs;
  });

  # { <type>.<name> = [ definition ]; }
  resourceDefinitions =
    let
      sets = catAttrs "resources" networks;
      ofType = type: catAttrs type sets;
    in
    genAttrs (names sets) (type: genAttrs (names (ofType type)) (name: catAttrs name (ofType type)));

  # The attributes that its definitions give a resource.
  define = { type, name, nodes, resources }:
    let
      arguments = {
        inherit name nodes resources lib;
        inherit (deployment) uuid;
        pkgs = import nixpkgs ({ config = { }; overlays = [ ]; }
          // (if flake == null then { } else { inherit (flake) system; }));
      };
      definition = value:
        let loaded = if isAttrs value || isFunction value then value else import value;
        in if isFunction loaded then loaded arguments else loaded;
    in
    (lib.evalModules {
      modules = [ { options.resource = lib.mkOption { type = lib.types.attrsOf lib.types.unspecified; }; } ]
        ++ map (value: { resource = definition value; }) ([ (defaultsOf type name) ]
        ++ resourceDefinitions.${type}.${name});
    }).config.resource;

  # A resource has these, and over them those that it got when it was made.
  withFacts = type: name: defined:
    let
      resource = defined // facts.resources.${type}.${name} or { };
      # A program's outputs are those that the network says.
      outputs = (import ./outputs.nix).${type} or (if type == "exec" then defined.outputs or [ ] else [ ]);
      unknown = filter (output: !(resource ? ${output})) outputs;
    in
    # What needs what is not known fails with the resource's name.
    genAttrs unknown (output: throw "resources.${type}.${name}.${output} is not known")
    // resource // { _type = type; _name = name; _unknown = unknown; };

  # The name that the cloud knows it by, as NixOps 1.7 chose it.
  defaultsOf = type: name: {
    name = lib.mkOptionDefault (
      if elem type [ "ec2KeyPairs" "ec2SecurityGroups" "ec2PlacementGroups" "s3Buckets" "iamRoles" "sqsQueues" "snsTopics" "cloudwatchLogGroups" "cloudwatchLogStreams" ]
      then "charon-${deployment.uuid}-${name}"
      else "nixops-${deployment.uuid}-${name}");
  };

  # A value as JSON can hold it. A path stays text: toJSON would copy the file,
  # perhaps a key, into the store. A resource becomes a reference to it, what
  # has no value is left out.
  plain = value:
    if builtins.isPath value then toString value
    else if builtins.isList value then map plain value
    else if !isAttrs value then value
    else if value ? _type && value ? _name then { resource = { type = value._type; name = value._name; }; }
    else if lib.isDerivation value then value.drvPath
    else mapAttrs (_: plain) (lib.filterAttrs (_: v: !isFunction v) value);

  providers = import ./providers.nix;
  record = import ./record.nix;

  targetOf = { options, config, ... }:
    let cfg = config.deployment;
    in {
      host = cfg.targetHost;
      user = cfg.targetUser;
      sudo = cfg.privilegeEscalationCommand; # also for root: a record may name another user
    } // lib.optionalAttrs
      # A port that nobody chose is left to the user's ssh configuration.
      (cfg.targetPort != 22 || options.deployment.targetPort.highestPrio < (lib.mkOptionDefault null).priority)
      { port = cfg.targetPort; };

  describe = machine: name:
    let
      described = machine name;
      cfg = described.config.deployment;
    in {
      inherit (cfg) tags;
      target = targetOf described;
      deployment = plain ({
        inherit (cfg)
          targetEnv targetHost targetPort targetUser privilegeEscalationCommand;
      } // lib.filterAttrs (provider: value: elem provider providers && value != { }) cfg);
    };

  # Not what it got: that is for who made it to know.
  describeResource = defined: type: name: { config = plain defined.${type}.${name}; };

  # One evaluation gives the derivation and what the later stages need to know.
  # No contents of a key and no passphrase is among it.
  system = name:
    let
      machine = full.machine name;
      inherit (machine) config;
      inherit (config.system.build) toplevel;
      cfg = config.deployment;
    in {
      inherit (toplevel) drvPath system;
      inherit (cfg) tags;
      target = targetOf machine;
      deployment = {
        inherit (cfg) alwaysActivate hasFastConnection;
        keys = record.keys cfg.keys;
      } // record.activation cfg;
      ofOthers = known.ofOthers name config;
    };
in
{
  about = {
    form = "nixops";
    warnings = concatMap (name: optional (settings ? ${name})
      "network.${name} does nothing here: what nx remembers is in .nx/") [ "storage" "lock" ]
      ++ optional (flake != null && settings.facts or false) "network.facts does nothing here: no facts enter a flake";
    description = settings.description or "Unnamed NixOps network";
    enableRollback = settings.enableRollback or false;
    nixpkgs = toString nixpkgs;
    machines = machineNames;
    resources = concatLists (attrValues (mapAttrs
      (type: set: map (name: { inherit type name; }) (attrNames set)) resourceDefinitions));
  };

  # What a query may name.
  scope = { inherit (full) nodes resources; inherit lib; };

  machine = {
    describe = describe light.machine;
    describeFully = describe full.machine;
    inherit system;
    texts = name: record.texts (full.machine name).config.deployment.keys;
  };
  resource = {
    describe = describeResource light.defined;
    describeFully = describeResource full.defined;
  };
}
