{ config, ... }: {
  defaults = { lib, name, ... }: {
    nixpkgs = <nixpkgs>;
    privilegeEscalationCommand = [ "doas" ];
    configuration.networking.hostName = lib.mkDefault name;
  };

  nodes.node1 = { lib, config, ... }: {
    host = "root@node1.example.org";
    configuration = ./board-configuration.nix;
  };

  nodes.node2 = { lib, config, ... }: {
    host = "admin@node2.example.org";
    successTimeout = 30;
    ignoreFailingSystemdUnits = true;
    hasFastConnection = true;
    configuration = { nodes, config, ... }: {
      boot.isContainer = true;
      services.openssh.enable = true;
      environment.etc.others.text = "${toString (builtins.attrNames nodes)} ${nodes.node1.networking.hostName}";
      environment.etc.token.source = config.secrets.files.token.file;
      secrets.files.token = { file = ./nixus.nix; group = "wheel"; };
    };
  };

  nodes.unused = { enable = false; host = "unused"; };
}
