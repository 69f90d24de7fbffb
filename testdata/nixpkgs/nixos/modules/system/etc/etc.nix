# Files in /etc.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  entries = lib.filter (f: f.enable) (lib.attrValues config.environment.etc);

  etc = pkgs.runCommand "etc" { } (''
    # SOURCE TARGET MODE USER GROUP
    entry() {
      mkdir -p "$(dirname "$out/etc/$2")"
      if [ -L "$out/etc/$2" ]; then
        echo "duplicate entry $2 -> $1"
        if [ "$(readlink "$out/etc/$2")" != "$1" ]; then
          echo "mismatched duplicate entry $(readlink "$out/etc/$2") <-> $1"
          exit 1
        fi
        return
      fi
      ln -s "$1" "$out/etc/$2"
      if [ "$3" != symlink ]; then
        echo "$3" > "$out/etc/$2.mode"
        echo "$4" > "$out/etc/$2.uid"
        echo "$5" > "$out/etc/$2.gid"
      fi
    }
    mkdir -p $out/etc
  '' + lib.concatMapStrings (f: "entry ${lib.escapeShellArgs [ "${f.source}" f.target f.mode f.user f.group ]}\n") entries);

  entryType = types.submodule ({ name, config, ... }: {
    options = {
      enable = mkOption { type = types.bool; default = true; description = "Whether the file is there."; };
      target = mkOption { type = types.str; description = "Its name under /etc."; };
      text = mkOption { type = types.nullOr types.lines; default = null; description = "Its text."; };
      source = mkOption { type = types.path; description = "The file it is a link to, or a copy of."; };
      mode = mkOption { type = types.str; default = "symlink"; description = "symlink, direct-symlink, or the copy's mode."; };
      uid = mkOption { type = types.int; default = 0; description = "The copy's owner."; };
      gid = mkOption { type = types.int; default = 0; description = "The copy's group."; };
      user = mkOption { type = types.str; default = "+${toString config.uid}"; description = "The copy's owner, by name."; };
      group = mkOption { type = types.str; default = "+${toString config.gid}"; description = "The copy's group, by name."; };
    };
    config = {
      target = lib.mkDefault name;
      source = lib.mkIf (config.text != null) (lib.mkDefault (storeText "etc-${baseNameOf name}" config.text));
    };
  });
  # A file of the store, by a derivation only where the text refers to one.
  storeText = name: text:
    let safe = lib.strings.sanitizeDerivationName name; in
    if builtins.hasContext text then pkgs.writeText safe text else builtins.toFile safe text;
in
{
  options.environment.etc = mkOption {
    type = types.attrsOf entryType;
    default = { };
    description = "Files in /etc.";
  };

  config = {
    system.build.etc = etc;
    system.activationScripts.etc = lib.stringAfter [ "users" "groups" ] ''
      # Set up the statically computed bits of /etc.
      echo "setting up /etc..."
      /bin/sh ${./setup-etc.sh} ${etc}/etc
    '';
  };
}
