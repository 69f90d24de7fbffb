# A web server. The address of the database is known only once it was provisioned.
{ nodes, ... }: {
  deployment.tags = [ "web" ];
  networking.firewall.allowedTCPPorts = [ 80 ];
  environment.etc."shop/database".text = "${nodes.db.config.networking.privateIPv4}:5432\n";
  environment.etc."shop/greeting".text = "Good morning\n";
}
