# The value of an expression about a network, as JSON can hold it.
{
  expression # a file
, scope # what the expression may name: { nodes, resources, lib }
}:

let
  record = import ./record.nix;

  # The names are there as if they were builtins: the expression is never text in
  # ours, and it may shadow them.
  value = builtins.scopedImport scope expression;

  # A path stays text: toJSON would copy the file, perhaps a key, into the store.
  # toJSON itself makes a derivation, or what has __toString, a string.
  plain = value:
    if builtins.isPath value then toString value
    else if builtins.isList value then map plain value
    else if !builtins.isAttrs value || value ? outPath || value ? __toString then value
    else builtins.mapAttrs (_: plain) (record.where (v: !builtins.isFunction v) (record.known value));
in
plain (if builtins.isFunction value then value scope else value)
