# What NixOS' own modules make of configurations.
{ eval }:
let
  config = modules: (eval ([ { boot.isContainer = true; networking.hostName = "web1"; system.stateVersion = "20.09"; } ] ++ modules)).config;
  base = config [ ];
  ssh = config [ { services.openssh.enable = true; users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA root@x" ]; networking.firewall.allowedTCPPorts = [ 80 ]; } ];
  users = config [
    { users.users.deploy = { isNormalUser = true; extraGroups = [ "wheel" ]; }; }
    { users.extraUsers.web = { isSystemUser = true; group = "web"; }; users.groups.web = { }; }
  ];
  failing = modules: map (a: a.message) (builtins.filter (a: !a.assertion) (eval ([ { networking.hostName = "m"; system.stateVersion = "20.09"; } ] ++ modules)).config.assertions);
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  etc = config [ { environment.etc."a/b".text = "x\n"; environment.etc.copied = { text = "y"; mode = "0400"; uid = 5; }; } { environment.etc."a/b".text = "z"; } ];
  unit = config [ { systemd.services.app = { wantedBy = [ "multi-user.target" ]; serviceConfig.ExecStart = "/bin/true"; environment.A = "1"; }; } ];
in
{
  systemName = base.system.name;
  toplevelIsDerivation = base.system.build ? toplevel;
  platform = (eval [ { boot.isContainer = true; } ]).pkgs.stdenv.hostPlatform.system;
  arm = (eval [ { nixpkgs.localSystem = { system = "aarch64-linux"; config = "aarch64-unknown-linux-gnu"; }; } ]).pkgs.stdenv.hostPlatform.system;
  armBySystem = (eval [ { nixpkgs.system = "aarch64-linux"; } ]).pkgs.stdenv.hostPlatform.system;
  overlay = (eval [ { nixpkgs.overlays = [ (self: super: { extra = "from overlay"; }) ]; } ]).pkgs.extra;
  overlaySeesOthers = (eval [ { nixpkgs.overlays = [ (self: super: { a = 1; }) (self: super: { b = super.a + 1; }) ]; } ]).pkgs.b;
  nixpkgsConfig = (eval [ { nixpkgs.config.allowUnfree = true; } ]).pkgs.config.allowUnfree;
  sshKeyFile = { inherit (ssh.environment.etc."ssh/authorized_keys.d/root") mode target; };
  deploy = { inherit (users.users.users.deploy) group home isNormalUser isSystemUser createHome extraGroups; };
  web = { inherit (users.users.users.web) group home isSystemUser; };
  rootUid = base.users.users.root.uid;
  wheelIsThere = base.users.groups ? wheel;
  etcText = etc.environment.etc."a/b".text;
  etcMode = { inherit (etc.environment.etc.copied) mode uid user target enable; };
  hostsOfName = base.networking.hosts."127.0.0.2";
  firewall = base.networking.firewall.enable;
  unitFlags = { inherit (unit.systemd.services.app) enable restartIfChanged reloadIfChanged stopIfChanged wantedBy; };
  unitEnvironment = unit.systemd.services.app.environment.A;
  grubInContainer = base.boot.loader.grub.enable;
  grubElsewhere = (eval [ { } ]).config.boot.loader.grub.enable;
  noRoot = failing [ { boot.loader.grub.device = "nodev"; } ];
  noDevice = failing [ { fileSystems."/" = { device = "/dev/sda"; fsType = "ext4"; }; } ];
  bootable = failing [ { boot.loader.grub.device = "nodev"; fileSystems."/" = { device = "/dev/sda"; fsType = "ext4"; }; } ];
  services = map (c: c.systemd.services ? postgresql) [ base (config [ { services.postgresql.enable = true; } ]) ];
  labelTags = let c = config [ { system.nixos.tags = [ "b" "a" ]; } ]; in builtins.substring 0 4 c.system.nixos.label;
  disabledModule = (eval [ { disabledModules = [ "services/networking/ssh/sshd.nix" ]; boot.isContainer = true; _module.check = false; } ]).options.services ? openssh;
  moduleArguments = (eval [ ({ modulesPath, pkgs, lib, options, ... }: { boot.isContainer = true; networking.hostName = lib.mkIf (builtins.pathExists (modulesPath + "/module-list.nix") && options ? services) "there"; }) ]).config.networking.hostName;
  activationScriptType = builtins.isString (config [ { system.activationScripts.x = "echo"; } ]).system.activationScripts.script;
}
