# Each machine but the first and the last breaks in a way of its own.
{
  defaults.boot.isContainer = true;

  a-sound = { };
  abort = { networking.hostName = abort "given up"; };
  assertion = { assertions = [ { assertion = false; message = "this never holds"; } ]; };
  attribute = { config, ... }: { networking.hostName = config.networking.nothing; };
  crash = { networking.hostName = let f = n: 1 + f (n + 1); in toString (f 0); };
  file = { imports = [ ./there-is-none.nix ]; };
  option = { services.nothingKnown.enable = true; };
  recursion = { networking.hostName = let name = name; in name; };
  syntax = { imports = [ ./syntax-error ]; };
  throw = { networking.hostName = throw "not like this\nnor like that"; };
  type = { networking.hostName = 1 + "one"; };
  value = { networking.hostName = 3; };
  z-sound = { };
}
