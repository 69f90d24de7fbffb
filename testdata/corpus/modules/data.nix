{
  imports = [ ./counter.nix ];
  _file = "named-by-itself.nix";
  sum = [ 3 ];
}
