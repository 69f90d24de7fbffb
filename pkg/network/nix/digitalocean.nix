# What a machine at DigitalOcean is, as NixOps 1.7 wrote it once it had made one:
# the disk and drivers of its virtual machine. What the network says goes first.
{ config, options, lib, modulesPath, ... }@args:

with lib;

let
  guest = import (modulesPath + "/profiles/qemu-guest.nix");
in
{
  _file = "nx/digitalocean";

  config = mkIf (elem config.deployment.targetEnv [ "digitalOcean" "droplet" ]) (mkMerge [
    (if isFunction guest then guest args else guest)
    {
      nixpkgs.system = mkIf (!(options.nixpkgs.hostPlatform.isDefined or false)) (mkOverride 900 "x86_64-linux");
      services.openssh.enable = mkOverride 900 true;
      boot.loader.grub.device = mkOverride 900 "nodev";
      fileSystems."/" = { device = mkOverride 900 "/dev/vda1"; fsType = mkOverride 900 "ext4"; };
    }
  ]);
}
