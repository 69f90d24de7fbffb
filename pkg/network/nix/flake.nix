# How nx asks a flake: as an input of this one, so that it is evaluated purely,
# as nix eval does, with its own lock file, and none is written. Both inputs are
# always overridden.
{
  inputs.network.url = "path:/nowhere";
  inputs.request = { url = "path:/nowhere"; flake = false; };

  outputs = { network, request, ... }: {
    answer = import ./flake-answer.nix { inherit request; flake = network; };
  };
}
