# Networks as nixus defines them: a module above the machines' own, or the
# derivation that nixus makes of one, from which all is read as it stands.
{
  files # paths; several are modules of one network
, call # calls what is no module with the user's arguments
, isModule
, facts # { machines.<name>, resources.<type>.<name> }: what host records say
}:

let
  read = map (file:
    let value = import file;
    in if isModule value then value else call value) files;
  first = builtins.head read;
  made = !builtins.isFunction first && first.type or null == "derivation";

  lib = import <nixpkgs/lib>;
  system = builtins.currentSystem;

  # Which nixpkgs a machine is of, it says itself; this one evaluates the module above.
  own = lib.evalModules {
    modules = [
      ./nixus-options.nix
      {
        _module.args = {
          nixus = { pkgs = import <nixpkgs> { inherit system; config = { }; overlays = [ ]; }; extendLib = lib: lib; };
          pkgs = throw "a network of nixus has no pkgs: there is nixus.pkgs";
        };
      }
      {
        _file = "nx/facts";
        defaults = lib.mkIf takesFacts ({ name, ... }: { configuration.imports = known.modules name; });
      }
    ] ++ lib.zipListsWith (lib.setDefaultModuleLocation or (_: module: module)) (map toString files) read;
    specialArgs = { inherit system; };
  };

  known = import ./facts.nix { inherit lib facts; everywhere = true; };
  takesFacts = !made && own.options.network.facts.isDefined && own.config.network.facts;

  config =
    if !made then own.config
    else if builtins.length files == 1 then first.config
    else throw "a network that nixus made is one file, and ${toString (builtins.length files)} are named";

  nodes = builtins.mapAttrs (_: node: node) config.nodes;
  record = import ./record.nix;

  # host is [USER@]HOST, as for ssh.
  targetOf = { host, privilegeEscalationCommand ? [ "sudo" ], ... }:
    let parts = builtins.match "(.*)@([^@]*)" host;
    in record.given {
      host = if parts == null then host else builtins.elemAt parts 1;
      user = if parts == null then null else builtins.head parts;
      sudo = privilegeEscalationCommand;
    };

  describe = name:
    let target = targetOf nodes.${name};
    in {
      tags = [ ];
      inherit target;
      deployment = record.given {
        targetEnv = "none";
        targetHost = target.host;
        targetUser = target.user or null;
        privilegeEscalationCommand = target.sudo;
        inherit (nodes.${name}) hasFastConnection;
      };
    };

  # A secret is readable by one user or by one group. Its file in the configuration
  # is a derivation that knows where the contents are.
  key = secrets: name: { file, user, group, ... }:
    let
      owner = if user != null then user else "root";
      byGroup = group != null;
    in record.key { inherit (file) file; } {
      inherit name;
      destDir = "${toString secrets.baseDirectory}/active/" + (if byGroup then "per-group/${group}" else "per-user/${owner}");
      user = if byGroup then "root" else owner;
      group = if byGroup then group else "root";
      permissions = if byGroup then "0040" else "0400";
    };

  system' = name:
    let
      node = nodes.${name};
      inherit (node) configuration;
      inherit (configuration.system.build) toplevel;
    in {
      inherit (toplevel) drvPath system;
      tags = [ ];
      target = targetOf node;
      deployment = {
        inherit (node) hasFastConnection successTimeout switchTimeout ignoreFailingSystemdUnits;
        keys = builtins.mapAttrs (key configuration.secrets) configuration.secrets.files;
      } // record.activation node;
      ofOthers = takesFacts && known.ofOthers name configuration;
    };
in
{
  about = {
    form = "nixus";
    description = "";
    enableRollback = false;
    nixpkgs = toString <nixpkgs>;
    machines = builtins.filter (name: nodes.${name}.enable) (builtins.attrNames nodes);
    resources = [ ];
    warnings = lib.optional (made && config.network.facts or false)
      "network.facts does nothing here: nixus itself made the network";
  };

  scope = {
    nodes = builtins.mapAttrs (_: node: node // { config = node.configuration; }) nodes;
    resources = { };
    inherit lib;
  };

  machine = {
    inherit describe;
    describeFully = describe;
    system = system';
    texts = _: { };
  };
}
