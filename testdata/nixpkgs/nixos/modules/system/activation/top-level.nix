# system.build.toplevel: the system as one store path.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  inherit (config.system) nixos;
  platform = pkgs.stdenv.hostPlatform;
  isMachine = !config.boot.isContainer;

  bootspec = {
    "org.nixos.bootspec.v1" = {
      inherit (platform) system;
      label = "${nixos.distroName} ${nixos.codeName} ${nixos.label} (Linux ${config.boot.kernelPackages.kernel.modDirVersion})";
      kernel = "${config.boot.kernelPackages.kernel}/${platform.linux-kernel.target}";
      inherit (config.boot) kernelParams;
      initrd = "${config.system.build.initialRamdisk}/initrd";
      toplevel = placeholder "out";
      init = "${placeholder "out"}/init";
    };
    "org.nixos.specialisation.v1" = { };
  };

  preSwitchCheck = lib.concatStrings (lib.mapAttrsToList (name: text: ''
    # pre-switch check ${name}
    (
      ${text}
    ) || { echo "Pre-switch check '${name}' failed" >&2; exit 1; }
  '') config.system.preSwitchChecks);

  toplevel = pkgs.runCommand "nixos-system-${config.system.name}-${nixos.label}" ({
    inherit (config.system) extraDependencies;
    activationScript = config.system.activationScripts.script;
    inherit (config.system) dryActivationScript;
    inherit preSwitchCheck;
    inherit (config.system.build) installBootLoader;
    passAsFile = [ "activationScript" "dryActivationScript" "preSwitchCheck" ] ++ lib.optional isMachine "bootspec";
  } // lib.optionalAttrs isMachine { bootspec = builtins.toJSON bootspec; }) ''
    mkdir -p $out/bin
    ${lib.optionalString isMachine ''
      ln -s ${config.boot.kernelPackages.kernel}/${platform.linux-kernel.target} $out/kernel
      ln -s ${config.boot.kernelPackages.kernel} $out/kernel-modules
      ln -s ${config.system.build.initialRamdisk}/initrd $out/initrd
      printf %s ${lib.escapeShellArg (toString config.boot.kernelParams)} > $out/kernel-params
      cp "$bootspecPath" $out/boot.json
    ''}
    sed "s,@out@,$out," "$activationScriptPath" > $out/activate
    sed "s,@out@,$out," "$dryActivationScriptPath" > $out/dry-activate
    sed "s,@out@,$out," ${./init.sh} > $out/init
    { echo '#!/bin/sh'; cat "$preSwitchCheckPath"; } > $out/pre-switch-checks
    sed -e "s,@out@,$out," -e "s,@installBootLoader@,$installBootLoader," \
      -e 's,@distroId@,${nixos.distroId},' ${./switch-to-configuration.sh} > $out/bin/switch-to-configuration
    chmod +x $out/activate $out/dry-activate $out/init $out/pre-switch-checks $out/bin/switch-to-configuration

    ln -s ${config.system.build.etc}/etc $out/etc
    ln -s ${config.system.path} $out/sw
    ln -s ${config.systemd.package} $out/systemd
    printf %s "systemd ${toString config.systemd.package.interfaceVersion}" > $out/init-interface-version
    printf %s ${lib.escapeShellArg nixos.label} > $out/nixos-version
    printf %s ${platform.system} > $out/system
    printf '%s ' $extraDependencies > $out/extra-dependencies
    ${config.system.systemBuilderCommands}
  '';
in
{
  imports = [
    (lib.mkRenamedOptionModule [ "system" "extraSystemBuilderCmds" ] [ "system" "systemBuilderCommands" ])
  ];

  options.system = {
    build = mkOption {
      default = { };
      description = "What can be built of the system.";
      type = types.submoduleWith {
        modules = [ { freeformType = types.lazyAttrsOf (types.uniq types.unspecified); } ];
      };
    };
    name = mkOption {
      type = types.str;
      default = if config.networking.hostName == "" then "unnamed" else config.networking.hostName;
      description = "The name of the system.";
    };
    extraDependencies = mkOption {
      type = types.listOf types.pathInStore;
      default = [ ];
      description = "Paths that are in the system's closure.";
    };
    systemBuilderCommands = mkOption {
      type = types.lines;
      default = "";
      internal = true;
      description = "The end of the system's builder.";
    };
    preSwitchChecks = mkOption {
      type = types.attrsOf types.str;
      default = { };
      description = "Shell scripts, given the system and the action; one that fails prevents the switch.";
    };
  };

  config.system.build.toplevel = lib.asserts.checkAssertWarn config.assertions config.warnings toplevel;
}
