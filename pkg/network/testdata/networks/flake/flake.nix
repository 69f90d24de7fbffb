{
  inputs.nixpkgs.url = "nixpkgs";
  outputs = { self, nixpkgs, ... }:
    let
      host = name: more: nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [ { networking.hostName = name; services.openssh.enable = true; boot.isContainer = true; } more ];
      };
    in {
      # What is not pure is not there: nx evaluates as nix eval does.
      nixosConfigurations.gamma = host "gamma" { environment.etc.home.text = "[${builtins.getEnv "HOME"}]"; };
      nixosConfigurations.delta = host "delta" { environment.etc.source.text = "${self.outPath} ${toString self.lastModified}"; };
      nixosConfigurations.broken = host "broken" { services.openssh.enable = throw "out of order"; };
      nixosConfigurations.own = host "own" ({ lib, config, ... }: {
        options.deployment = lib.mkOption { type = lib.types.attrsOf lib.types.unspecified; };
        config.deployment = {
          targetHost = "own.example.org";
          targetPort = 2200;
          tags = [ config.networking.hostName ];
          keys.token = { name = "token"; text = null; keyFile = null; keyCommand = [ "echo" "from the command" ];
            destDir = "/run/keys"; user = "root"; group = "root"; permissions = "0400"; };
          keys.other.shape = "another";
        };
      });
      deploy.sshUser = "deploy";
      deploy.nodes.gamma = { hostname = "gamma.example.org"; sshUser = "root"; fastConnection = true; };
      deploy.nodes.delta = {
        hostname = "delta.example.org";
        sshOpts = [ "-v" "-p" "2222" ];
        remoteBuild = true;
        profiles.system = { user = "root"; path = throw "nx needs no activate-rs"; magicRollback = false; confirmTimeout = 60; };
      };
      deploy.nodes.phone = { hostname = "phone.example.org"; };
    };
}
