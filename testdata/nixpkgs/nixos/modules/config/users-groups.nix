# Accounts. What is declared is created on the host; what the host has besides
# stays as it is (users.mutableUsers, as far as that goes).
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; description = "Accepted, without effect in the stand-in."; };
  cfg = config.users;
  orNone = v: if v == null then "" else toString v;

  user = { name, config, ... }: {
    options = {
      name = mkOption { type = types.passwdEntry types.str; default = name; description = "The account's name."; };
      description = mkOption { type = types.passwdEntry types.str; default = ""; description = "Whose it is."; };
      uid = mkOption { type = types.nullOr types.int; default = null; description = "Its number; chosen on the host when null."; };
      isSystemUser = mkOption { type = types.bool; default = false; description = "Whether it is a service's."; };
      isNormalUser = mkOption { type = types.bool; default = false; description = "Whether it is a person's."; };
      group = mkOption { type = types.str; default = ""; description = "Its primary group."; };
      extraGroups = mkOption { type = types.listOf types.str; default = [ ]; description = "Its other groups."; };
      home = mkOption { type = types.passwdEntry types.path; default = "/var/empty"; description = "Its home."; };
      createHome = mkOption { type = types.bool; default = false; description = "Whether to make its home."; };
      shell = mkOption { type = types.nullOr (types.either types.shellPackage (types.passwdEntry types.path)); default = "/usr/sbin/nologin"; description = "Its shell."; };
      useDefaultShell = option types.bool false;
      hashedPassword = mkOption { type = types.nullOr (types.passwdEntry types.str); default = null; description = "Its password, hashed; set when the account is made."; };
      initialHashedPassword = option (types.nullOr types.str) null;
      initialPassword = option (types.nullOr types.str) null;
      password = option (types.nullOr types.str) null;
      hashedPasswordFile = option (types.nullOr types.str) null;
      packages = option (types.listOf types.package) [ ];
      linger = option (types.nullOr types.bool) null;
      openssh.authorizedKeys = {
        keys = mkOption { type = types.listOf types.singleLineStr; default = [ ]; description = "Public keys that may log in."; };
        keyFiles = mkOption { type = types.listOf types.path; default = [ ]; description = "Files of such keys."; };
      };
    };
    config = lib.mkIf config.isNormalUser {
      group = lib.mkDefault "users";
      createHome = lib.mkDefault true;
      home = lib.mkDefault "/home/${config.name}";
      shell = lib.mkOverride 999 "/bin/bash";
    };
  };
  group = { name, ... }: {
    options = {
      name = mkOption { type = types.passwdEntry types.str; default = name; description = "The group's name."; };
      gid = mkOption { type = types.nullOr types.int; default = null; description = "Its number; chosen on the host when null."; };
      members = mkOption { type = types.listOf types.str; default = [ ]; description = "Its members."; };
    };
  };

  membersOf = g: lib.unique (g.members ++ map (u: u.name) (lib.filter (u: lib.elem g.name u.extraGroups) (lib.attrValues cfg.users)));
  groupLine = g: "${g.name}:${orNone g.gid}:${lib.concatStringsSep "," (membersOf g)}\n";
  userLine = u: lib.concatStringsSep ":" [
    u.name
    (orNone u.uid)
    u.group
    u.description
    u.home
    (if lib.isDerivation u.shell then u.shell.shellPath else orNone u.shell)
    (lib.boolToString u.isNormalUser)
    (lib.boolToString u.createHome)
    (orNone u.hashedPassword)
  ] + "\n";
  file = name: line: set: builtins.toFile name
    (builtins.unsafeDiscardStringContext (lib.concatMapStrings line (lib.attrValues set)));
in
{
  imports = [
    (lib.mkAliasOptionModule [ "users" "extraUsers" ] [ "users" "users" ])
    (lib.mkAliasOptionModule [ "users" "extraGroups" ] [ "users" "groups" ])
  ];

  options.users = {
    mutableUsers = option types.bool true;
    defaultUserShell = option (types.nullOr (types.either types.path types.package)) null;
    users = mkOption { type = types.attrsOf (types.submodule user); default = { }; description = "The accounts."; };
    groups = mkOption { type = types.attrsOf (types.submodule group); default = { }; description = "The groups."; };
  };

  config = {
    users.users.root = { uid = 0; group = "root"; description = "System administrator"; home = "/root"; shell = lib.mkDefault "/bin/bash"; };
    users.groups = { root.gid = 0; wheel = { }; users.gid = 100; keys = { }; };

    system.activationScripts.users = {
      supportsDryActivation = false;
      text = "/bin/sh ${./users-groups.sh} ${file "groups" groupLine cfg.groups} ${file "users" userLine cfg.users}";
    };
    system.activationScripts.groups = lib.stringAfter [ "users" ] "";

    assertions = lib.concatMap (u: [
      {
        assertion = u.uid == 0 || (u.isSystemUser != u.isNormalUser);
        message = ''
          Exactly one of users.users.${u.name}.isSystemUser and users.users.${u.name}.isNormalUser must be set.
        '';
      }
      {
        assertion = u.group != "";
        message = ''
          users.users.${u.name}.group is unset. This used to default to
          nogroup, but this is unsafe. For example you can create a group
          for this user with:
          users.users.${u.name}.group = "${u.name}";
          users.groups.${u.name} = {};
        '';
      }
    ]) (lib.attrValues cfg.users);
  };
}
