# The library of the stand-in nixpkgs: what networks and modules use of the
# real one, under the same names. ../README.md says what is missing.
let
  fix = f: let self = f self; in self;

  extends = overlay: f: final:
    let prev = f final; in prev // overlay final prev;

  library = self:
    let
      sections = {
        trivial = import ./trivial.nix { lib = self; };
        lists = import ./lists.nix { lib = self; };
        attrsets = import ./attrsets.nix { lib = self; };
        strings = import ./strings.nix { lib = self; };
        options = import ./options.nix { lib = self; };
        modules = import ./modules.nix { lib = self; };
      };
    in
    # Everything is in its section and, as in the real library, flat beside it.
    sections.trivial // sections.lists // sections.attrsets // sections.strings
    // sections.options // sections.modules // sections // {
      types = import ./types.nix { lib = self; };
      systems = import ./systems.nix { lib = self; };

      fixedPoints = { inherit (self) fix extends composeExtensions composeManyExtensions makeExtensible; };
      versions = {
        inherit (self) splitVersion;
        major = v: builtins.elemAt (self.splitVersion v) 0;
        majorMinor = v: self.concatStringsSep "." (self.take 2 (self.splitVersion v));
      };
      generators = { inherit (self.strings) toJSON; inherit (self.trivial) toPretty; inherit (self.attrsets) toKeyValue toINI; };
      asserts = { inherit (self) assertMsg assertOneOf checkAssertWarn; };
      meta = { inherit (self) getExe getExe'; };
      maintainers = { };
      licenses = self.genAttrs [ "asl20" "bsd3" "free" "gpl2" "gpl3" "mit" "unfree" ] (spdxId: { inherit spdxId; });
      platforms = { linux = [ "aarch64-linux" "x86_64-linux" ]; };

      inherit fix extends;
      inherit (self.types) mkOptionType isOptionType;
      inherit (self.modules) evalModules;
      composeExtensions = f: g: final: prev:
        let
          first = f final prev;
          second = g final (prev // first);
        in
        first // second;
      composeManyExtensions = self.foldr self.composeExtensions (_: _: { });
      makeExtensible = f: fix (final: f final // {
        extend = overlay: self.makeExtensible (extends overlay f);
      });

      extend = overlay: fix (extends overlay library);
    };
in
fix library
