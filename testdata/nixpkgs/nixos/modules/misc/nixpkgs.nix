# Which package set the pkgs argument is, and for which platform.
{ config, options, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.nixpkgs;
  opt = options.nixpkgs;

  isCross = cfg.buildPlatform != cfg.hostPlatform;
  ownPkgs = import ../../.. ({ inherit (cfg) config overlays; } // (
    if !opt.hostPlatform.isDefined then { inherit (cfg) localSystem crossSystem; }
    else if isCross then { localSystem = cfg.buildPlatform; crossSystem = cfg.hostPlatform; }
    else { localSystem = cfg.hostPlatform; }
  ));
  finalPkgs = if opt.pkgs.isDefined then cfg.pkgs.appendOverlays cfg.overlays else ownPkgs;
  expected = if cfg.crossSystem != null then cfg.crossSystem.system else cfg.localSystem.system;
  legacyDefined =
    lib.optional (opt.localSystem.highestPrio < 1000) opt.system
    ++ lib.optional (opt.localSystem.highestPrio < 1500) opt.localSystem
    ++ lib.optional (opt.crossSystem.highestPrio < 1500) opt.crossSystem;
in
{
  options.nixpkgs = {
    pkgs = mkOption {
      type = types.pkgs;
      description = "The package set to use instead of importing one.";
    };
    config = mkOption {
      type = lib.mkOptionType {
        name = "nixpkgs-config";
        description = "nixpkgs config";
        check = x: lib.isAttrs x || lib.isFunction x;
        merge = _: lib.foldr (def: acc: lib.recursiveUpdate (lib.toFunction def.value { inherit lib; pkgs = finalPkgs; }) acc) { };
      };
      default = { };
      description = "The configuration of the package set.";
    };
    overlays = mkOption {
      type = types.listOf (lib.mkOptionType {
        name = "nixpkgs-overlay";
        description = "nixpkgs overlay";
        check = lib.isFunction;
        merge = lib.mergeOneOption;
      });
      default = [ ];
      description = "Overlays of the package set.";
    };
    hostPlatform = mkOption {
      type = types.either types.str types.attrs;
      apply = lib.systems.elaborate;
      description = "The platform that the system runs on.";
    };
    buildPlatform = mkOption {
      type = types.either types.str types.attrs;
      default = cfg.hostPlatform;
      apply = lib.systems.elaborate;
      description = "The platform that the system is built on.";
    };
    localSystem = mkOption {
      type = types.attrs;
      default = { inherit (cfg) system; };
      apply = lib.systems.elaborate;
      description = "The platform to build on and, without crossSystem, for.";
    };
    crossSystem = mkOption {
      type = types.nullOr types.attrs;
      default = null;
      description = "The platform to build for.";
    };
    system = mkOption {
      type = types.str;
      default = throw (
        if opt.hostPlatform.isDefined then ''
          Neither ${opt.system} nor any other option in nixpkgs.* is meant
          to be read by modules and configurations.
          Use pkgs.stdenv.hostPlatform instead.
        '' else ''
          Neither ${opt.hostPlatform} nor the legacy option ${opt.system} has been set.
          You can set ${opt.hostPlatform} in hardware-configuration.nix by re-running
          a recent version of nixos-generate-config.
          The option ${opt.system} is still fully supported for NixOS 22.05 interoperability,
          but will be deprecated in the future, so we recommend to set ${opt.hostPlatform}.
        ''
      );
      description = "The name of the platform.";
    };
    flake.source = mkOption {
      type = types.nullOr (types.either types.str types.path);
      default = null;
      description = "Where the nixpkgs of a flake is.";
    };
  };

  config = {
    _module.args.pkgs = lib.mkOverride lib.modules.defaultOverridePriority finalPkgs;

    assertions = [
      {
        assertion = opt.pkgs.isDefined || opt.hostPlatform.isDefined || expected == finalPkgs.stdenv.hostPlatform.system;
        message = "The NixOS nixpkgs.pkgs option was set to a Nixpkgs invocation that compiles to target system ${finalPkgs.stdenv.hostPlatform.system} but NixOS was configured for system ${expected} via NixOS option ${if cfg.crossSystem != null then "nixpkgs.crossSystem" else "nixpkgs.localSystem"}. The NixOS system settings must match the Nixpkgs target system.";
      }
      {
        assertion = opt.pkgs.isDefined || !opt.hostPlatform.isDefined || legacyDefined == [ ];
        message = ''
          Your system configures nixpkgs with the platform parameter:
          ${lib.showOptionWithDefLocs opt.hostPlatform}
          However, it also defines the legacy options:
          ${lib.concatMapStrings lib.showOptionWithDefLocs legacyDefined}
          For a future proof system configuration, we recommend to remove
          the legacy definitions.
        '';
      }
      {
        assertion = opt.pkgs.isDefined -> cfg.config == { };
        message = ''
          Your system configures nixpkgs with an externally created instance.
          `nixpkgs.config` options should be passed when creating the instance instead.

          Current value:
          ${lib.generators.toPretty { } cfg.config}

          Defined in:
          ${lib.concatMapStringsSep "\n" (file: "  - ${file}") opt.config.files}
        '';
      }
    ];
  };
}
