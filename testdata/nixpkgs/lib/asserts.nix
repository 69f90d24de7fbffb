# What must hold.
{ lib }:
rec {
  assertMsg = pred: msg: pred || throw msg;
  assertOneOf = name: value: values:
    assertMsg (builtins.elem value values)
      "${name} must be one of ${lib.generators.toPretty { multiline = false; } values}, but is: ${lib.generators.toPretty { } value}";
  # What every toplevel goes through: its assertions, then its warnings.
  checkAssertWarn = assertions: warnings: value:
    let failed = map (a: a.message) (builtins.filter (a: !a.assertion) assertions);
    in
    if failed != [ ] then
      throw "\nFailed assertions:\n${lib.concatMapStringsSep "\n" (m: "- ${m}") failed}"
    else lib.showWarnings warnings value;
}
