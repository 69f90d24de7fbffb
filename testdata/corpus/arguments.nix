# Arguments of modules.
{ lib }:
let
  inherit (lib) mkForce mkOption types;
  str = { options.v = mkOption { type = types.str; }; };
  eval = modules: (lib.evalModules { inherit modules; }).config.v;
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
in
{
  moduleArgs = eval [ str { _module.args.word = "given"; } ({ word, ... }: { v = word; }) ];
  argsFromConfig = eval [ str { options.w = mkOption { default = "w"; }; } ({ config, ... }: { _module.args.word = config.w; }) ({ word, ... }: { v = word; }) ];
  forcedArg = eval [ str { _module.args.word = "given"; } { _module.args.word = mkForce "forced"; } ({ word, ... }: { v = word; }) ];
  lazyArgs = eval [ str { _module.args = { word = "given"; other = throw "looked at"; }; } ({ word, other, ... }: { v = word; }) ];
  specialArgs = (lib.evalModules { modules = [ str ({ word, ... }: { v = word; }) ]; specialArgs.word = "special"; }).config.v;
  argsAtPattern = eval [ str { _module.args.word = "given"; } (args@{ word, ... }: { v = args.word; }) ];
  argsWithoutPattern = eval [ str (args: { v = if args ? lib && args ? config && args ? options then "all there" else "missing"; }) ];
  libInModule = eval [ str ({ lib, ... }: { v = lib.concatStrings [ "a" "b" ]; }) ];
  prefix = lib.concatStringsSep "." (lib.evalModules { modules = [ str { v = "x"; } ]; prefix = [ "a" "b" ]; }).options.v.loc;
}
