# Packages, variables and the mounts of the system.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.environment;
  variable = types.attrsOf (types.oneOf [ (types.listOf (types.oneOf [ types.int types.str types.path ])) types.int types.str types.path ]);
  value = v: if lib.isList v then lib.concatMapStringsSep ":" toString v else toString v;
in
{
  options = {
    environment = {
      systemPackages = mkOption {
        type = types.listOf types.package;
        default = [ ];
        description = "Packages whose programs are in /run/current-system/sw/bin.";
      };
      defaultPackages = mkOption {
        type = types.listOf types.package;
        default = [ ];
        description = "Packages that are there unless this is emptied.";
      };
      pathsToLink = mkOption {
        type = types.listOf types.str;
        default = [ "/bin" ];
        description = "Accepted; all of each package is linked.";
      };
      variables = mkOption {
        type = variable;
        default = { };
        description = "Variables of every shell, in /etc/set-environment.";
      };
      sessionVariables = mkOption {
        type = variable;
        default = { };
        description = "Variables of every session; here the same as variables.";
      };
      shellAliases = mkOption {
        type = types.attrsOf (types.nullOr types.str);
        default = { };
        description = "Accepted, without effect in the stand-in.";
      };
      shellInit = mkOption {
        type = types.lines;
        default = "";
        description = "The end of /etc/set-environment.";
      };
    };
    fileSystems = mkOption {
      default = { };
      description = "What is mounted where.";
      type = types.attrsOf (types.submodule ({ name, config, ... }: {
        options = {
          mountPoint = mkOption { type = types.str; default = name; description = "Where."; };
          device = mkOption { type = types.nullOr types.str; default = null; description = "What."; };
          label = mkOption { type = types.nullOr types.str; default = null; description = "What, by its label."; };
          fsType = mkOption { type = types.nonEmptyStr; description = "Its type."; };
          options = mkOption { type = types.listOf types.str; default = [ "defaults" ]; description = "How."; };
          neededForBoot = mkOption { type = types.bool; default = false; description = "Accepted."; };
          autoFormat = mkOption { type = types.bool; default = false; description = "Accepted."; };
          autoResize = mkOption { type = types.bool; default = false; description = "Accepted."; };
          noCheck = mkOption { type = types.bool; default = false; description = "Accepted."; };
        };
        config.device = lib.mkIf (config.label != null) (lib.mkDefault "/dev/disk/by-label/${config.label}");
      }));
    };
    swapDevices = mkOption {
      type = types.listOf (types.submodule {
        freeformType = types.attrsOf types.anything;
        options.device = mkOption { type = types.str; description = "The device."; };
      });
      default = [ ];
      description = "Devices to swap on.";
    };
    system.path = mkOption {
      type = types.package;
      internal = true;
      description = "The tree of all system packages.";
    };
  };

  config = {
    environment.systemPackages = [ pkgs.bash pkgs.coreutils pkgs.nix pkgs.systemd ] ++ cfg.defaultPackages;
    system.path = pkgs.buildEnv { name = "system-path"; paths = cfg.systemPackages; };

    environment.etc."set-environment".text =
      lib.concatStrings (lib.mapAttrsToList (name: v: "export ${name}=${lib.escapeShellArg (value v)}\n")
        (cfg.sessionVariables // cfg.variables)) + cfg.shellInit;
    environment.etc.fstab = lib.mkIf (!config.boot.isContainer) {
      text = lib.concatStrings (map
        (fs: "${fs.device} ${fs.mountPoint} ${fs.fsType} ${lib.concatStringsSep "," fs.options} 0 ${if fs.mountPoint == "/" then "1" else "2"}\n")
        (lib.filter (fs: fs.device != null) (lib.attrValues config.fileSystems)))
      + lib.concatMapStrings (swap: "${swap.device} none swap\n") config.swapDevices;
    };

    assertions = lib.optional (!config.boot.isContainer) {
      assertion = config.fileSystems ? "/";
      message = "The ‘fileSystems’ option does not specify your root file system.";
    };
  };
}
