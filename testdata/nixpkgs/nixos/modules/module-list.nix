# Where a real module of the same name exists, it stands at the same path, so
# that disabledModules works as it does there.
[
  ./config/environment.nix
  ./config/networking.nix
  ./config/users-groups.nix
  ./misc/assertions.nix
  ./misc/nixpkgs.nix
  ./misc/settings.nix
  ./misc/version.nix
  ./programs/ssh.nix
  ./services/networking/ssh/sshd.nix
  ./services/servers.nix
  ./system/activation/activation-script.nix
  ./system/activation/top-level.nix
  ./system/boot/boot.nix
  ./system/boot/systemd.nix
  ./system/etc/etc.nix
]
