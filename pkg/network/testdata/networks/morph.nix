let pkgs = import <nixpkgs> { };
in {
  network = {
    inherit pkgs;
    description = "two web hosts";
    ordering.tags = [ "first" ];
    specialArgs.greeting = "hello";
    nixConfig.builders-use-substitutes = "true";
  };

  defaults = { greeting, name, nodes, ... }: {
    boot.isContainer = true;
    services.openssh.enable = true;
    environment.etc.greeting.text = "${greeting} ${name} of ${toString (builtins.attrNames nodes)}";
  };

  "web01.example.org" = { config, pkgs, ... }: {
    deployment = {
      tags = [ "web" "first" ];
      targetPort = 2222;
      targetUser = "admin";
      healthChecks.cmd = [ { cmd = [ "true" "${pkgs.hello}/bin/hello" ]; description = "is alive"; } ];
      healthChecks.http = [ {
        description = "answers";
        port = 8080;
        path = "/health";
        headers.Authorization = "Bearer not-in-any-record";
      } ];
      preDeployChecks.cmd = [ { cmd = [ "false" ]; description = "is there"; period = 1; timeout = 60; } ];
      secrets.api-key = {
        source = "./secrets/api-key";
        destination = "/var/lib/api-key";
        owner.user = "nobody";
        action = [ "systemctl" "reload" "httpd" ];
        uploadAt = "post-activation";
      };
    };
    networking.hostName = "web01";
  };

  "web02.example.org" = { nodes, ... }: {
    deployment = { substituteOnDestination = true; buildOnly = true; };
    networking.hostName = "web02";
    environment.etc.other.text = nodes."web01.example.org".config.networking.hostName;
  };
}
