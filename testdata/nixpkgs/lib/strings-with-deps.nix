# Shell fragments that depend on each other.
{ lib }:
rec {
  # Shell fragments by name, { text, deps }, in the order of their deps.
  textClosureList = predefined: names:
    let
      go = done: todo:
        if todo == [ ] then { inherit done; result = [ ]; }
        else
          let
            entry = builtins.head todo;
            rest = builtins.tail todo;
            text = predefined.${entry} or (throw "the script snippet '${entry}' is a dependency, but it does not exist");
            deps = go (done // { ${entry} = 1; }) text.deps;
            after = go deps.done rest;
          in
          if done ? ${entry} then go done rest
          else { inherit (after) done; result = deps.result ++ [ text.text ] ++ after.result; };
    in
    (go { } names).result;
  textClosureMap = f: predefined: names: lib.concatStringsSep "\n" (map f (textClosureList predefined names));
  noDepEntry = text: { inherit text; deps = [ ]; };
  fullDepEntry = text: deps: { inherit text deps; };
  packEntry = deps: { inherit deps; text = ""; };
  stringAfter = deps: text: { inherit text deps; };
}
