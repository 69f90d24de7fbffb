# How nx asks a flake: as an input of this one, so that it is evaluated purely,
# as nix eval does, with its own lock file, and none is written. Both inputs are
# always overridden.
{
  inputs.network.url = "path:/nowhere";
  inputs.request = { url = "path:/nowhere"; flake = false; };

  outputs = { network, request, ... }:
    let
      question = builtins.fromJSON (builtins.readFile (request + "/request.json"));
    in {
      answer = import ./answer.nix {
        request = question;
        expression = request + "/expression.nix";
        network = import ./flakes.nix {
          flake = network;
          arguments = import (request + "/arguments.nix");
          inherit (question) format system deployment folder;
        };
      };
    };
}
