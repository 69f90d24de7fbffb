# What nx asks of a network: one evaluation that answers for many items, each
# answer on stderr as soon as it is known.
#
# nxRequest names a JSON file with the question (see request in driver.go). All
# other arguments are the user's --arg and --argstr, for networks that are
# functions. Values of the outside world come in that file, as data; none is
# ever spliced into Nix text.
{ nxRequest, ... }@args:

let
  request = builtins.fromJSON (builtins.readFile nxRequest);

  network = import ./nixops.nix {
    files = map (file: /. + file) request.files;
    arguments = removeAttrs args [ "nxRequest" ];
    inherit (request) deployment facts;
  };

  answers = {
    network = _: network.about;
    machine = item: network.machine.${request.answer} item.name;
    resource = item: network.resource.${request.answer} item.type item.name;
  };

  # An answer may hold strings that refer to the store; only their text matters.
  # The mark is unguessable, so no trace of the user's is taken for an answer.
  say = item:
    builtins.trace (request.mark + builtins.unsafeDiscardStringContext
      (builtins.toJSON (answers.${item.kind} item)));
in
# A fold over functions: what a finished machine evaluated becomes garbage,
# where an attribute set of machines would keep it all.
builtins.foldl' (done: item: say item (done + 1)) 0 request.items
