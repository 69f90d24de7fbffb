# Kernel, initial ramdisk and boot loader.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.boot;
  option = type: default: mkOption { inherit type default; description = "Accepted, without effect in the stand-in."; };
  flag = option types.bool;
  words = option (types.listOf types.str) [ ];
  loader = cfg.loader;
in
{
  options = {
    boot = {
      isContainer = mkOption {
        type = types.bool;
        default = false;
        description = "Whether the machine has no kernel of its own.";
      };
      kernelPackages = mkOption {
        type = types.raw;
        default = pkgs.linuxPackages;
        description = "The kernel and what belongs to it.";
      };
      kernelParams = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "The kernel's command line.";
      };
      kernel.sysctl = option (types.attrsOf (types.nullOr (types.oneOf [ types.bool types.str types.int ]))) { };
      kernelModules = words;
      extraModulePackages = option (types.listOf types.package) [ ];
      extraModprobeConfig = option types.lines "";
      blacklistedKernelModules = words;
      supportedFilesystems = option (types.either (types.listOf types.str) (types.attrsOf types.bool)) [ ];
      consoleLogLevel = option types.int 4;
      growPartition = flag false;
      tmp = { cleanOnBoot = flag false; useTmpfs = flag false; };
      initrd = {
        enable = flag true;
        availableKernelModules = words;
        kernelModules = words;
        supportedFilesystems = words;
        luks.devices = option (types.attrsOf types.anything) { };
        network = option (types.attrsOf types.anything) { };
        systemd.enable = flag false;
      };
      loader = {
        timeout = option (types.nullOr types.int) 5;
        efi = { canTouchEfiVariables = flag false; efiSysMountPoint = option types.str "/boot"; };
        grub = {
          enable = mkOption { type = types.bool; default = !cfg.isContainer; description = "Whether GRUB boots the machine."; };
          device = mkOption { type = types.str; default = ""; description = "The disk it is installed on."; };
          devices = mkOption { type = types.listOf types.str; default = [ ]; description = "The disks it is installed on."; };
          version = option (types.nullOr types.int) null;
          efiSupport = flag false;
          efiInstallAsRemovable = flag false;
          useOSProber = flag false;
          configurationLimit = option types.int 100;
          extraConfig = option types.lines "";
        };
        systemd-boot = {
          enable = mkOption { type = types.bool; default = false; description = "Whether systemd-boot boots the machine."; };
          configurationLimit = option (types.nullOr types.int) null;
        };
        generic-extlinux-compatible = {
          enable = mkOption { type = types.bool; default = false; description = "Whether U-Boot boots the machine."; };
          configurationLimit = option types.int 20;
        };
      };
    };
    system.build.installBootLoader = mkOption {
      internal = true;
      type = types.unique {
        message = "Only one bootloader can be enabled at a time.";
      } (types.either types.str types.package);
      default = "/bin/sh ${./no-boot-loader.sh}";
      description = "The command that makes the system given to it the boot default.";
    };
  };

  config = {
    boot.loader.grub.devices = lib.mkIf (loader.grub.device != "") [ loader.grub.device ];
    boot.kernelParams = lib.mkIf (!cfg.isContainer) [ "loglevel=${toString cfg.consoleLogLevel}" ];

    # A container's host decides what it starts; here that is the same file.
    system.build.installBootLoader = lib.mkIf
      (cfg.isContainer || loader.grub.enable || loader.systemd-boot.enable || loader.generic-extlinux-compatible.enable)
      (lib.mkDefault "/bin/sh ${./install-boot-loader.sh}");
    system.build.initialRamdisk = pkgs.runCommand "initrd" { } ''
      mkdir $out
      echo initrd > $out/initrd
    '';

    assertions = lib.optional loader.grub.enable {
      assertion = loader.grub.devices != [ ];
      message = "You must set the option ‘boot.loader.grub.devices’ or 'boot.loader.grub.mirroredBoots' to make the system bootable.";
    };
  };
}
