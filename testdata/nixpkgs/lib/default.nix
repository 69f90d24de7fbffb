# The library of the stand-in nixpkgs: what networks and modules use of the
# real one, under the same names. ../README.md says what is missing.
let
  fix = f: let self = f self; in self;

  extends = overlay: f: final:
    let prev = f final; in prev // overlay final prev;

  library = self:
    let
      from = file: import file { lib = self; };
      sections = {
        asserts = from ./asserts.nix;
        attrsets = from ./attrsets.nix;
        fixedPoints = {
          inherit fix extends;
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
        };
        generators = from ./generators.nix;
        lists = from ./lists.nix;
        meta = {
          getExe = package: self.getExe' package (package.meta.mainProgram or (self.getName package));
          getExe' = package: name: "${self.getBin package}/bin/${name}";
        };
        modules = from ./modules.nix;
        options = from ./options.nix;
        sources.cleanSource = builtins.filterSource
          (path: _: !(builtins.elem (baseNameOf path) [ ".git" ".svn" "CVS" ".hg" ]));
        strings = from ./strings.nix;
        stringsWithDeps = from ./strings-with-deps.nix;
        systems = from ./systems.nix;
        trivial = from ./trivial.nix;
        types = from ./types.nix;
        versions = {
          inherit (builtins) splitVersion;
          major = v: builtins.elemAt (builtins.splitVersion v) 0;
          majorMinor = v: self.concatStringsSep "." (self.take 2 (builtins.splitVersion v));
        };
      };
      # Most of the sections is flat beside them. This is what is not.
      flat = with sections;
        asserts // attrsets // fixedPoints // lists // meta // modules // options // sources
        // strings // stringsWithDeps // trivial;
      only = [
        "checkAssertWarn" "codeName" "collectModules" "defaultOrderPriority" "defaultOverridePriority"
        "escapeNixIdentifier" "escapeNixString" "filterOverrides'" "importApply"
        "isConvertibleWithToString" "levenshtein" "mkAliasAndWrapDefsWithPriority" "mkAliasIfDef"
        "oldestSupportedRelease" "release" "revisionWithDefault" "sanitizeDerivationName" "showDefs"
        "storeDir" "versionSuffix"
      ];
    in
    removeAttrs flat only // sections // {
      inherit (builtins) addErrorContext isAttrs isList isPath mul trace tryEval typeOf unsafeGetAttrPos;
      inherit (sections.types) defaultTypeMerge isOptionType isType mkOptionType setType;

      traceVal = x: builtins.trace x x;
      traceValSeq = x: builtins.trace (builtins.deepSeq x x) x;
      traceSeq = x: builtins.trace (builtins.deepSeq x x);

      maintainers = { };
      platforms.linux = [ "aarch64-linux" "x86_64-linux" ];
      licenses = self.genAttrs [ "asl20" "bsd3" "free" "gpl2" "gpl3" "mit" "unfree" ] (spdxId: { inherit spdxId; });

      extend = overlay: fix (extends overlay library);
    };
in
fix library
