# The value of an expression about a network, as JSON can hold it.
{
  expression # a function of what it may name
, scope # { nodes, resources, lib }
}:

let
  record = import ./record.nix;

  value = expression scope;

  # A path stays text: toJSON would copy the file, perhaps a key, into the store.
  # toJSON itself makes a derivation, or what has __toString, a string.
  plain = value:
    if builtins.isPath value then toString value
    else if builtins.isList value then map plain value
    else if !builtins.isAttrs value || value ? outPath || value ? __toString then value
    else builtins.mapAttrs (_: plain) (record.where (v: !builtins.isFunction v) (record.known value));
in
plain (if builtins.isFunction value then value scope else value)
