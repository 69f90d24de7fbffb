# What the answers of several forms have in common: values as host records have
# them. A record has no secret; it names the option that has it.
let
  inherit (builtins) attrNames filter genList elemAt length mapAttrs;
in
rec {
  # The members whose value is so.
  where = is: set: removeAttrs set (filter (name: !(is set.${name})) (attrNames set));
  given = where (value: value != null);

  # A resource without the attributes that nobody knows yet, whose values throw.
  known = resource: removeAttrs resource ([ "_unknown" ] ++ resource._unknown or [ ]);

  option = name: { option = name; };

  # A key. Its source is the file, the command or the option that has its contents.
  key = source: { name, destDir, user, group, permissions, uploadAt ? "pre-activation", action ? [ ], restartUnits ? [ ], ... }: {
    inherit name user group permissions uploadAt source;
    destDir = toString destDir;
  } // where (list: list != [ ]) { inherit action restartUnits; };

  # The keys of options as NixOps' and colmena's. A file is its name: as a path
  # JSON would have it in the store.
  keys = mapAttrs (name: { text, keyFile, keyCommand, decrypt ? null, ... }@options: key (given {
    file = if keyFile == null then null else toString keyFile;
    command = keyCommand;
    eval = if text == null then null else "deployment.keys.${name}.text";
    inherit decrypt;
  }) options);

  # The contents of those that are in the network: for the one who brings them to
  # the machine, and in no record.
  texts = keys: mapAttrs (name: { text, ... }:
    # Options that are none of nx's may have a path there, whose file JSON would have in the store.
    if builtins.isString text then text else throw "deployment.keys.${name}.text is no string") (where (key: key.text != null) keys);

  # Checks as morph defines them, with times in seconds.
  checks = path: { cmd, http, ... }: {
    cmd = map ({ description, cmd, period, timeout, ... }: given { inherit description cmd period timeout; }) cmd;
    http = genList (i:
      let check = elemAt http i;
      in given {
        inherit (check) description host scheme port period timeout insecureSSL;
        path = toString check.path;
        headers = mapAttrs (name: _: option "${path}.http.${toString i}.headers.${name}") check.headers;
      }) (length http);
  };

  # What activation-options.nix declares, where it is set; a hive or a node that the
  # tool itself made has none of it.
  activation = cfg:
    let
      full = where (value: value != [ ] && value != { });
      checks = mapAttrs (_: map given);
    in full {
      activation = given (cfg.activation or { });
      healthChecks = full (checks (cfg.healthChecks or { }));
      preDeployChecks = full (checks (cfg.preDeployChecks or { }));
    };
}
