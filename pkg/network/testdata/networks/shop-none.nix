# The shop on two machines that exist, whoever made them.
{
  db = { deployment.targetHost = "192.0.2.10"; networking.privateIPv4 = "10.0.0.10"; };

  web = {
    deployment = { targetHost = "192.0.2.11"; targetPort = 2222; targetUser = "admin"; tags = [ "public" ]; };
    services.httpd.adminAddr = "shop@example.org";
  };
}
