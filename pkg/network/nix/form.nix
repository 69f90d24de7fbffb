# A network as nx asks it, whichever tool its files are written for.
#
# Each form has a file here that makes of them:
#
#   about      { form, description, enableRollback, nixpkgs, machines, resources, warnings }
#   machine    { describe, describeFully, system, texts }, functions of a machine's name:
#     describe   { deployment, tags, target } for provisioning and lists, without
#                NixOS' modules where that can be; describeFully with them
#     system     { drvPath, system, tags, target, deployment } for the record, and
#                ofOthers, true where others' records have a part in the derivation
#     texts      { KEY = contents; } of the keys whose contents are in the network
#   resource   { describe, describeFully }, functions of type and name
#   scope      { nodes, resources, lib }: what a query may name; nodes.<name>.config
#              is a machine's configuration
{
  files # paths, in the order given
, format # one of forms; "" for what the files themselves show
, arguments # what network functions are called with
, deployment # { name, uuid }
, facts # { machines.<name>, resources.<type>.<name> }: what host records say
}:

let
  inherit (builtins)
    any attrNames elem filter functionArgs head intersectAttrs isAttrs isFunction length map
    tryEval typeOf;

  # As Nix calls a function automatically: the arguments it names, or all where
  # it takes any. Nix itself says which one is missing.
  call = f:
    if !isFunction f then f
    else f (if functionArgs f == { } then arguments else intersectAttrs (functionArgs f) arguments);

  # The arguments that only the module system calls a function with, unless the user does.
  moduleArguments = f: filter (name: elem name [ "config" "options" "lib" "nixus" ]
    && !(functionArgs f).${name} && !(arguments ? ${name})) (attrNames (functionArgs f));

  isModule = value: isFunction value && moduleArguments value != [ ];

  # The attributes that a module has whatever it is called with, if it lets that be seen.
  moduleNames = f: tryEval (attrNames (f (builtins.mapAttrs (name: _: throw "seen without ${name}") (functionArgs f))));

  # The names that only morph has in network.
  morphSettings = [ "pkgs" "lib" "evalConfig" "specialArgs" "runCommand" "nixConfig" "ordering" "buildShell" ];

  # The form of one file, or a sentence that says what it is instead.
  formOf = file:
    let
      read = import file;
      value = call read;
      names = moduleNames read;
    in
    if isModule read then
      if !names.success || any (name: elem name names.value) [ "nodes" "imports" "config" ] then { is = "nixus"; }
      else { isNot = "it is a function of ${head (moduleArguments read)}, as the configuration of one machine is"; }
    else if !isAttrs value then { isNot = "it is a ${typeOf value}"; }
    else if value.type or null == "derivation" then
      if value ? config.nodes then { is = "nixus"; } else { isNot = "it is a derivation"; }
    else if value ? outputs && isFunction value.outputs then
      { isNot = "it is a flake, which is named by its folder"; }
    else if value ? meta && !(value ? network) then { is = "colmena"; }
    else if value ? network && any (name: value.network ? ${name}) morphSettings then { is = "morph"; }
    else if value ? nodes && !(value ? network) && isAttrs value.nodes then { is = "nixus"; }
    else { is = "nixops"; };

  found = map (file: formOf file // { inherit file; }) files;
  wrong = filter (form: form ? isNot) found;
  telling = filter (form: form.is != "nixops") found;

  form =
    if format != "" then format
    else if wrong != [ ] then throw "${toString (head wrong).file} is no network of NixOps, morph, colmena or nixus: ${(head wrong).isNot}"
    else if telling != [ ] then (head telling).is
    else "nixops";

  # Forms that are one file.
  single = use:
    if length files == 1 then use (call (import (head files)))
    else throw "a network of ${form} is one file, and ${toString (length files)} are named";

  forms = {
    nixops = import ./nixops.nix { inherit files arguments deployment facts; };
    morph = single (network: import ./morph.nix { inherit network facts; file = head files; });
    colmena = single (hive: import ./colmena.nix { inherit hive facts; file = head files; });
    nixus = import ./nixus.nix { inherit files call isModule facts; };
  };
in
forms.${form}
