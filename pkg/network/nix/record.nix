# What the answers of several forms have in common: values as host records have
# them. A record has no secret; it names the option that has it.
let
  inherit (builtins) attrNames filter genList head elemAt length mapAttrs;
in
rec {
  # The members whose value is so.
  where = is: set: removeAttrs set (filter (name: !(is set.${name})) (attrNames set));
  given = where (value: value != null);

  # A resource without the attributes that nobody knows yet, whose values throw.
  known = resource: removeAttrs resource ([ "_unknown" ] ++ resource._unknown or [ ]);

  option = name: { option = name; };

  # A key, which comes by the first of the options from, below path, that is set.
  key = path: from: { name, destDir, user, group, permissions, uploadAt ? "pre-activation", ... }@key: {
    inherit name user group permissions uploadAt;
    destDir = toString destDir;
    contents = option "${path}.${head (filter (source: key.${source} != null) from ++ from)}";
  };

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

  # What activation-options.nix declares, where it is set.
  activation = cfg:
    let
      full = where (value: value != [ ] && value != { });
      checks = mapAttrs (_: map given);
    in full {
      activation = given cfg.activation;
      healthChecks = full (checks cfg.healthChecks);
      preDeployChecks = full (checks cfg.preDeployChecks);
    };
}
