{ lib, ... }:
{
  options = {
    assertions = lib.mkOption {
      type = lib.types.listOf lib.types.unspecified;
      internal = true;
      default = [ ];
      description = "What must hold for the system to be built: { assertion, message }.";
    };
    warnings = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      internal = true;
      default = [ ];
      description = "What is said while the system is evaluated.";
    };
    meta = lib.mkOption {
      type = lib.types.attrs;
      internal = true;
      default = { };
      description = "What modules say of themselves; not looked at.";
    };
    lib = lib.mkOption {
      type = lib.types.attrsOf lib.types.attrs;
      default = { };
      description = "Functions that modules give to each other.";
    };
  };
}
