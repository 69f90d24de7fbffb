# The same, where NixOS answers otherwise since 20.09.
{ eval }:
let
  config = modules: (eval ([ { boot.isContainer = true; networking.hostName = "web1"; } ] ++ modules)).config;
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  ssh = config [ { services.openssh = { enable = true; settings.PasswordAuthentication = false; }; } ];
  renamed = config [ { services.openssh = { enable = true; permitRootLogin = "no"; }; } ];
in
{
  settings = { inherit (ssh.services.openssh.settings) PermitRootLogin PasswordAuthentication KbdInteractiveAuthentication; };
  renamed = renamed.services.openssh.settings.PermitRootLogin;
  renamedWarns = builtins.length renamed.warnings > 0;
  keysFiles = ssh.services.openssh.authorizedKeysFiles;
  hostPlatform = (eval [ { nixpkgs.hostPlatform = "aarch64-linux"; } ]).pkgs.stdenv.hostPlatform.system;
  bothPlatforms = builtins.length (builtins.filter (a: !a.assertion) (config [ { nixpkgs.hostPlatform = "x86_64-linux"; nixpkgs.localSystem.system = "x86_64-linux"; } ]).assertions);
  sharedPkgs = let pkgs = (eval [ ]).pkgs; in (eval [ { nixpkgs.pkgs = pkgs; nixpkgs.overlays = [ (self: super: { extra = 1; }) ]; } ]).pkgs.extra;
  sharedPkgsConfig = let pkgs = (eval [ ]).pkgs; in builtins.length (builtins.filter (a: !a.assertion) (config [ { nixpkgs.pkgs = pkgs; nixpkgs.config.allowUnfree = true; } ]).assertions);
  hasExtendModules = (eval [ ]) ? extendModules;
  extended = ((eval [ { boot.isContainer = true; } ]).extendModules { modules = [ { networking.hostName = "extended"; } ]; }).config.networking.hostName;
  class = (eval [ ]).class;
  fqdn = [ (fails (config [ ]).networking.fqdn) (config [ { networking.domain = "example.org"; } ]).networking.fqdn ];
  buildIsFree = (config [ { system.build.mine = "x"; } ]).system.build.mine;
  dryActivation = (config [ { system.activationScripts.x = { text = "echo"; supportsDryActivation = true; }; } ]).system.activationScripts.x.supportsDryActivation;
  normalShell = (config [ { users.users.u.isNormalUser = true; } ]).users.users.u.linger;
  gateway = (config [ { networking.defaultGateway = "10.0.0.1"; } ]).networking.defaultGateway.address;
  bothKinds = map (a: a.message) (builtins.filter (a: !a.assertion) (config [ { users.users.x = { isNormalUser = true; isSystemUser = true; group = "x"; }; users.groups.x = { }; } ]).assertions);
  fileSystem = { inherit ((eval [ { fileSystems."/" = { label = "root"; fsType = "ext4"; }; } ]).config.fileSystems."/") device mountPoint fsType; };
  unknownOption = fails (config [ { services.nosuch.enable = true; } ]).networking.hostName;
  sshPorts = (config [ { services.openssh.enable = true; networking.firewall.allowedTCPPorts = [ 80 ]; } ]).networking.firewall.allowedTCPPorts;
}
