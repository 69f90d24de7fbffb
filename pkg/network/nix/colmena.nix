# Hives, the networks of colmena. Machines are evaluated as its eval.nix does, so
# that they are the same derivations; the light evaluation is nx's own.
{
  hive
, file # where it is from, for messages
, facts ? { } # { machines.<name>, resources.<type>.<name> }: what host records say
, hermetic ? false # of a flake, where nixpkgs is what the hive says
}:

let
  inherit (builtins) attrNames elem filter isAttrs isFunction isList isPath isString;

  reserved = [ "defaults" "network" "meta" ];
  machineNames = filter (name: !elem name reserved) (attrNames hive);

  stated =
    if hive ? meta && hive ? network then throw "a hive has either meta or network, which is its older name"
    else hive.meta or hive.network or { };

  # A package set from what the hive calls so: that itself, its function, or its path.
  packages = option: value:
    # A string too, as that is what fetchTarball makes.
    if isPath value || isString value || isAttrs value && value ? outPath then
      if hermetic then mustBeImported option else packages option (import value)
    else if isFunction value then
      if hermetic then mustBeImported option else value { overlays = [ ]; }
    else if isAttrs value && !(value ? outputs) then value
    else mustBeImported option;
  mustBeImported = option: throw "${option} must be a package set, as import nixpkgs { system = \"x86_64-linux\"; } is";

  pkgs = packages "meta.nixpkgs"
    (stated.nixpkgs or (if hermetic then throw "meta.nixpkgs must be set in a flake" else <nixpkgs>));
  inherit (pkgs) lib;

  meta = (lib.evalModules { modules = [ { options = metaOptions; } stated ]; }).config;
  metaOptions =
    let
      inherit (lib) types;
      option = default: type: lib.mkOption { inherit default type; };
    in {
      name = option "hive" types.str;
      description = option "A Colmena Hive" types.str;
      nixpkgs = option null types.unspecified;
      nodeNixpkgs = option { } (types.attrsOf types.unspecified);
      specialArgs = option { } (types.attrsOf types.unspecified);
      nodeSpecialArgs = option { } (types.attrsOf types.unspecified);
      machinesFile = option null (types.nullOr types.path);
      allowApplyAll = option true types.bool;
      facts = option false types.bool; # nx's own
    };

  known = import ./facts.nix { inherit lib facts; everywhere = true; };
  takesFacts = meta.facts && !hermetic;

  modulesOf = name: if isList hive.${name} then hive.${name} else [ hive.${name} ];

  # What evaluates a machine, with the package set of its own if it has one.
  evaluate = nodes: name: more:
    let
      own = if meta.nodeNixpkgs ? ${name} then packages "meta.nodeNixpkgs.${name}" meta.nodeNixpkgs.${name} else pkgs;
    in
    import (own.path + "/nixos/lib/eval-config.nix") {
      inherit (own) system;
      modules = [ (packagesModule own) ] ++ modules name more;
      specialArgs = specialArgs nodes name;
    };
  modules = name: more: [ ./colmena-keys.nix ./colmena-options.nix (hive.defaults or { }) ] ++ more ++ modulesOf name
    ++ lib.optionals takesFacts (known.modules name);
  specialArgs = nodes: name: { inherit name nodes; } // meta.specialArgs // meta.nodeSpecialArgs.${name} or { };

  # The package set enters the configuration by what it was made with.
  packagesModule = own: { lib, ... }: {
    _file = "nx/network";
    nixpkgs.overlays = lib.mkBefore own.overlays;
    nixpkgs.config =
      if lib.versionAtLeast lib.version "22.11pre" then lib.mkBefore own.config else lib.mkOptionDefault own.config;
  };

  nodes = lib.genAttrs machineNames (name: evaluate unchecked name [ ]);
  # What machines see of each other.
  unchecked = lib.genAttrs machineNames (name: evaluate unchecked name [ { _module.check = false; } ]);

  light = lib.genAttrs machineNames (name: lib.evalModules {
    modules = modules name [ ./light.nix ];
    specialArgs = { modulesPath = toString (pkgs.path + "/nixos/modules"); } // specialArgs light name;
  });

  answers = import ./colmena-answers.nix;
in
{
  about = {
    form = "colmena";
    inherit (meta) description;
    enableRollback = false;
    nixpkgs = toString pkgs.path;
    machines = machineNames;
    resources = [ ];
    warnings = lib.optional (!meta.allowApplyAll) "meta.allowApplyAll does nothing here: choose hosts by --on"
      ++ lib.optional (meta.facts && hermetic) "meta.facts does nothing here: no facts enter a flake";
  };

  scope = { inherit nodes lib; resources = { }; };

  machine = {
    describe = answers.describe light;
    describeFully = answers.describe unchecked;
    system = name: answers.system meta nodes name // { ofOthers = takesFacts && known.ofOthers name nodes.${name}.config; };
    texts = answers.texts nodes;
  };
}
