# How a machine is activated: options of nx's own, which nx-activate reads from the
# record. What is not set is left to nx-activate.
{ lib }:

with lib;

let
  optionWith = default: type: description: mkOption { inherit default type description; };
  maybe = type: optionWith null (types.nullOr type);
  set = options: types.submodule { inherit options; };
  words = types.listOf types.str;

  check = {
    description = maybe types.str "What is checked.";
    period = maybe types.int "Seconds between two tries.";
    timeout = maybe types.int "Seconds that a try may take.";
    retries = maybe types.int "How often it is tried again; as long as there is time unless set.";
  };
  asked = {
    host = maybe types.str "Whom to ask; the machine itself unless set.";
    port = mkOption { type = types.int; description = "The port."; };
  };
  list = options: optionWith [ ] (types.listOf (set (options // check)));
  checks = set {
    cmd = list { cmd = mkOption { type = words; description = "The command, run on the machine as root."; }; } "Commands that must succeed.";
    unit = list { unit = mkOption { type = types.str; description = "The unit."; }; } "Units that must be active.";
    tcp = list asked "Ports that must answer the deploying machine.";
    http = list (asked // {
      scheme = maybe types.str "The scheme of the URL, http unless set.";
      path = optionWith "/" types.str "The path of the URL.";
      insecureSSL = optionWith false types.bool "Whether any certificate will do.";
    }) "Requests of the deploying machine that must succeed.";
  };
  hook = set {
    cmd = mkOption { type = words; description = "The command."; };
    on = optionWith "deployer" (types.enum [ "deployer" "host" ]) "Where it runs.";
    timeout = optionWith 60 types.int "Seconds that it may take.";
  };
in
{
  healthChecks = optionWith { } checks "What must hold of a new system before it is kept.";
  preDeployChecks = optionWith { } checks "What must hold before anything is changed.";
  activation = optionWith { } (set {
    switchTimeout = maybe types.int "Seconds that switching may take.";
    confirmTimeout = maybe types.int "Seconds until somebody must have reached the new system; 0 asks nobody.";
    settleTime = maybe types.int "Seconds after which no unit may have failed.";
    ignoreFailedUnits = maybe (types.either types.bool words) "Units that may fail, or true for all.";
    rollback = maybe types.bool "Whether the machine goes back when the new system does not hold.";
    before = maybe (types.listOf hook) "Commands that run before the machine is changed, and stop it when they fail.";
    after = maybe (types.listOf (types.either types.str hook))
      "Machines that must be through before this one is touched, and commands that run once it is activated.";
    onRollback = maybe (types.listOf hook) "Commands that run once the machine has gone back.";
  }) "How the machine is activated.";
}
