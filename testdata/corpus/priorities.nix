# Which definition wins.
{ lib }:
let
  inherit (lib) mkDefault mkForce mkIf mkMerge mkOption mkOptionDefault mkOverride types;
  eval = modules: (lib.evalModules { modules = [ option ] ++ modules; }).config.value;
  option = { options.value = mkOption { type = types.str; default = "option's default"; }; };
  fails = e: !(builtins.tryEval (builtins.deepSeq e e)).success;
  prio = modules: (lib.evalModules { modules = [ option ] ++ modules; }).options.value.highestPrio;
in
{
  nothing = eval [ ];
  plainOverDefault = eval [ { value = "plain"; } ];
  plainOverMkDefault = eval [ { value = mkDefault "default"; } { value = "plain"; } ];
  mkDefaultOverOption = eval [ { value = mkDefault "default"; } ];
  mkOptionDefaultConflicts = fails (eval [ { value = mkOptionDefault "other"; } ]);
  forceOverPlain = eval [ { value = "plain"; } { value = mkForce "forced"; } ];
  forceTwiceEqual = eval [ { value = mkForce "same"; } { value = mkForce "same"; } ];
  forceTwiceDifferent = fails (eval [ { value = mkForce "a"; } { value = mkForce "b"; } ]);
  plainTwiceDifferent = fails (eval [ { value = "a"; } { value = "b"; } ]);
  plainTwiceEqual = eval [ { value = "a"; } { value = "a"; } ];
  vmOverForce = eval [ { value = mkForce "forced"; } { value = lib.mkVMOverride "vm"; } ];
  numbers = eval [ { value = mkOverride 75 "75"; } { value = mkOverride 76 "76"; } { value = mkOverride 74 "74"; } ];
  overrideOfSet = eval [ (mkOverride 60 { value = "pushed down"; }) { value = "plain"; } ];
  ifAroundOverride = eval [ { value = mkIf true (mkForce "forced"); } { value = "plain"; } ];
  falseIfAroundOverride = eval [ { value = mkIf false (mkForce "forced"); } { value = "plain"; } ];
  mergeOfPriorities = eval [ { value = mkMerge [ (mkDefault "low") "mid" (mkForce "high") ]; } ];
  prioritySeen = {
    none = prio [ ];
    plain = prio [ { value = "x"; } ];
    default = prio [ { value = mkDefault "x"; } ];
    force = prio [ { value = "y"; } { value = mkForce "x"; } ];
    ifFalse = prio [ { value = mkIf false "x"; } ];
  };
}
