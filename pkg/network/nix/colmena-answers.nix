# What nx asks of a machine of colmena's, however it was evaluated: { <name>.config },
# and for its system also what the hive's meta says.
let
  record = import ./record.nix;

  targetOf = cfg: record.given {
    host = cfg.targetHost; # null: deployed by itself only
    port = cfg.targetPort;
    user = cfg.targetUser; # null: whoever ssh logs in as
    sudo = cfg.privilegeEscalationCommand;
  };
in
{
  describe = nodes: name:
    let cfg = nodes.${name}.config.deployment;
    in {
      inherit (cfg) tags;
      target = targetOf cfg;
      deployment = record.given {
        targetEnv = "none";
        inherit (cfg) targetHost targetPort targetUser sshOptions privilegeEscalationCommand;
      };
    };

  system = { machinesFile ? null, ... }: nodes: name:
    let
      inherit (nodes.${name}) config;
      inherit (config.system.build) toplevel;
      cfg = config.deployment;
    in {
      inherit (toplevel) drvPath system;
      inherit (cfg) tags;
      target = targetOf cfg;
      deployment = record.given {
        inherit (cfg) allowLocalDeployment buildOnTarget replaceUnknownProfiles;
        # Its name, rather than a copy of it in the store.
        machinesFile = if machinesFile == null then null else toString machinesFile;
        keys = record.keys cfg.keys;
      } // record.activation cfg;
    };

  texts = nodes: name: record.texts nodes.${name}.config.deployment.keys;
}
