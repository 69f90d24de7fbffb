{
  imports = [ ./counter.nix ];
  sum = [ 2 ];
}
