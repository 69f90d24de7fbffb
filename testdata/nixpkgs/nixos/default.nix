# One configuration, as nixos-rebuild takes it from <nixpkgs/nixos>.
{ configuration ? <nixos-config>, system ? builtins.currentSystem, specialArgs ? { } }:
let
  eval = import ./lib/eval-config.nix { inherit system specialArgs; modules = [ configuration ]; };
in
{
  inherit (eval) pkgs config options;
  system = eval.config.system.build.toplevel;
}
