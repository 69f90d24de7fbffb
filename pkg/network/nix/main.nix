# What nx asks of a network: one evaluation that answers for many items, each
# answer on stderr as soon as it is known.
#
# nxRequest names a JSON file with the question (see request in driver.go);
# nxExpression is that of a query, a function of what it may name. All other
# arguments are the user's --arg and --argstr, for networks that are
# functions. Values of the outside world come in that file, as data; none is
# ever spliced into Nix text.
{ nxRequest, nxExpression ? null, ... }@args:

let
  request = builtins.fromJSON (builtins.readFile nxRequest);
in
import ./answer.nix {
  inherit request;
  folder = /. + dirOf nxRequest;
  expression = nxExpression;
  network = import ./form.nix {
    files = map (file: /. + file) request.files;
    arguments = removeAttrs args [ "nxRequest" "nxExpression" ];
    inherit (request) format deployment facts;
  };
}
