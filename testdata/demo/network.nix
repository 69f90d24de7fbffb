# A shop of three machines, which nx-provision starts on this machine.
{
  network.description = "A shop: two web servers and their database";

  defaults = { name, ... }: {
    deployment.targetEnv = "sandbox";
    boot.isContainer = true;
    services.openssh.enable = true;
    environment.etc."shop/role".text = "${name}\n";
  };

  db = { ... }: {
    deployment.tags = [ "database" ];
    networking.firewall.allowedTCPPorts = [ 5432 ];
  };

  web1 = import ./web.nix;
  web2 = import ./web.nix;
}
