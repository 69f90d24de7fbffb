{
  meta = {
    nixpkgs = import <nixpkgs> { config.allowUnfree = true; overlays = [ (_: _: { motto = "shared"; }) ]; };
    nodeNixpkgs.beta = <nixpkgs>;
    specialArgs.greeting = "hello";
    nodeSpecialArgs.beta.greeting = "goodbye";
    description = "a hive";
  };

  defaults = { name, greeting, nodes, ... }: {
    networking.hostName = name;
    services.openssh.enable = true;
    boot.isContainer = true;
    environment.etc.greeting.text = "${greeting} ${name} of ${toString (builtins.attrNames nodes)}";
  };

  alpha = { pkgs, ... }: {
    deployment = { targetHost = "alpha.example.org"; targetPort = 2222; tags = [ "web" ]; buildOnTarget = true; };
    deployment.keys = {
      token.keyCommand = [ "printf" "%s" "from the command" ];
      late = { text = "not-in-any-record"; name = "late.key"; destDir = "/var/keys"; user = "nobody"; uploadAt = "post-activation"; };
    };
    environment.etc.motto.text = pkgs.motto;
  };

  beta = [
    { deployment = { targetUser = "admin"; tags = [ "db" ]; replaceUnknownProfiles = false; }; }
    ({ nodes, ... }: { environment.etc.other.text = nodes.alpha.config.networking.hostName; })
  ];

  gamma.deployment = { targetHost = null; targetUser = null; allowLocalDeployment = true; };
}
