# The answers that a request, a folder in the store, asks of a flake.
{ request, flake }:

let
  question = builtins.fromJSON (builtins.readFile (request + "/request.json"));
in
import ./answer.nix {
  request = question;
  folder = request;
  # The names are there as if they were builtins.
  expression = scope: builtins.scopedImport scope (request + "/expression.nix");
  network = import ./flakes.nix {
    inherit flake;
    arguments = import (request + "/arguments.nix");
    inherit (question) format system deployment;
  };
}
