# What the system calls itself.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.system.nixos;
  text = name: default: mkOption {
    type = types.str;
    inherit default;
    description = "The ${name} of the system.";
  };
in
{
  imports = [
    (lib.mkRenamedOptionModule [ "system" "nixosVersion" ] [ "system" "nixos" "version" ])
    (lib.mkRenamedOptionModule [ "system" "nixosLabel" ] [ "system" "nixos" "label" ])
  ];

  options.system = {
    nixos = {
      release = text "release" lib.trivial.release // { readOnly = true; };
      versionSuffix = text "version's suffix" lib.trivial.versionSuffix;
      version = text "version" (cfg.release + cfg.versionSuffix);
      codeName = text "code name" lib.trivial.codeName // { readOnly = true; };
      distroId = text "distribution's id" "nixos";
      distroName = text "distribution's name" "NixOS";
      label = text "label in boot menus" (lib.concatStringsSep "-" (lib.sort lib.lessThan cfg.tags ++ [ cfg.version ]));
      revision = mkOption {
        type = types.nullOr types.str;
        default = null;
        description = "The commit of nixpkgs.";
      };
      tags = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Words that go before the version in the label.";
      };
    };
    stateVersion = text "first installed release" cfg.release;
    configurationRevision = mkOption {
      type = types.nullOr types.str;
      default = null;
      description = "The commit of the configuration.";
    };
  };

  config.environment.etc."os-release".text = ''
    NAME=${cfg.distroName}
    ID=${cfg.distroId}
    VERSION="${cfg.release} (${cfg.codeName})"
    VERSION_ID="${cfg.release}"
    BUILD_ID="${cfg.version}"
    PRETTY_NAME="${cfg.distroName} ${cfg.release} (${cfg.codeName})"
  '';
}
