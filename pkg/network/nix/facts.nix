# What host records know of the world, for machines' configurations: what NixOps
# sets once it has made its machines, under the same names, with the same
# priorities (get_physical_spec in deployment.py and the backends of NixOps 1.7).
{ lib
, facts # { machines.<name>, resources.<type>.<name> }, the first as MachineFacts in network.go
, everywhere # also for machines that exist already, and of them
}:

let
  inherit (builtins) any attrNames attrValues concatLists concatMap filter head listToAttrs sort;

  machines = facts.machines or { };
  about = name: machines.${name} or { };

  optional = condition: value: if condition then [ value ] else [ ];

  addressesOf = builtins.intersectAttrs { publicIPv4 = null; publicIPv6 = null; privateIPv4 = null; privateIPv6 = null; };

  # The address to reach the machine that fact is about, from one of the provider.
  addressFrom = provider: fact:
    if (fact.provider or "none") == provider && fact ? privateIPv4 then fact.privateIPv4 else fact.publicIPv4 or null;

  # Lines for /etc/hosts: an address and its names, of which the first is what the
  # address is looked up as; so it has no suffix, and the lines are in its order.
  hostsOf = provider: self:
    let
      entries = concatMap (name:
        let address = addressFrom provider machines.${name};
        in optional (address != null) { ${address} = [ name "${name}-unencrypted" ]; }) (attrNames machines)
      ++ [ { "127.0.0.1" = [ "${self}-encrypted" ]; } ];
      merged = lib.mapAttrsToList (address: names: { inherit address names; })
        (lib.zipAttrsWith (_: concatLists) entries);
      line = { address, names }: "${address} ${toString names}\n";
    in
    lib.concatMapStrings line (sort (a: b: head a.names < head b.names) merged);

  # NixOps knows the host keys of what it made.
  withKeys = filter (name: machines.${name} ? hostKeys && (everywhere || (machines.${name}.provider or "none") != "none"))
    (attrNames machines);

  knownHosts = listToAttrs (concatMap (name: lib.imap1 (n: key: {
    # NixOps knows one key of a machine; no machine has a space in its name.
    name = if n == 1 then name else "${name} ${toString n}";
    value = { hostNames = [ "${name}-unencrypted" "${name}-encrypted" name ]; publicKey = key; };
  }) machines.${name}.hostKeys) withKeys);

  # What a machine is: the network says, where its form has that, or the record.
  providerOf = name: config: config.deployment.targetEnv or (about name).provider or "none";

  isTold = name: config: machines != { } && (everywhere || providerOf name config != "none");
in
rec {
  # The modules of a machine whose form has no options for addresses.
  modules = name: [ ./addresses.nix (module name) { _file = "nx/facts"; _module.args.resources = facts.resources or { }; } ];

  # The module of the machine called name; without records it defines nothing.
  module = name: { config, ... }: {
    _file = "nx/facts";
    config = lib.mkMerge [
      {
        networking = addressesOf (about name);
        system = lib.mkIf (about name ? stateVersion) { stateVersion = lib.mkDefault (about name).stateVersion; };
        users.users.root.openssh.authorizedKeys = lib.mkIf (about name ? authorizedKeys) { keys = (about name).authorizedKeys; };
      }
      (lib.mkIf (isTold name config) {
        networking.extraHosts = hostsOf (providerOf name config) name;
        services.openssh = { inherit knownHosts; };
      })
    ];
  };

  # Whether what is known of others is in the configuration of the machine called name.
  ofOthers = name: config: isTold name config
    && any (fact: addressesOf fact != { } || fact ? hostKeys) (attrValues (removeAttrs machines [ name ]));
}
