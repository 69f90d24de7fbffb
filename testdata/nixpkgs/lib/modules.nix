# The module system: collects modules, matches definitions with declared
# options, and merges them. Semantics and messages are those of nixpkgs 26.11;
# ../../corpus holds them against it.
{ lib }:
let
  inherit (builtins) addErrorContext attrNames concatMap filter foldl' head isAttrs length mapAttrs;
  inherit (lib) concatStringsSep isFunction isOption optional setAttrByPath showFiles showOption;
  inherit (lib.options) showDefs;

  # What is said of the first definition that has no option, with the names
  # nearby that were perhaps meant.
  unmatchedMessage = prefix: options: def:
    let
      siblings = attrNames (lib.attrByPath (lib.init def.prefix) { } options);
      candidates = if length def.prefix == 1 then lib.remove "_module" siblings else siblings;
      near = lib.take 3 (lib.sortOn (lib.strings.levenshtein (lib.last def.prefix)) candidates);
      quoted = map (name: "`${showOption (lib.init (prefix ++ def.prefix) ++ [ name ])}'") near;
      suggestion =
        if near == [ ] then ""
        else if length near == 1 then "\n\nDid you mean ${head quoted}?"
        else "\n\nDid you mean ${concatStringsSep ", " (lib.init quoted)} or ${lib.last quoted}?";
      base = "The option `${showOption (prefix ++ def.prefix)}' does not exist. Definition values:${showDefs [ def ]}${suggestion}";
    in
    if attrNames options != [ "_module" ] then base
    else if prefix == [ ] then
      base + "\n\nIt seems as if you're trying to declare an option by placing it into `config' rather than `options'!\n"
    else
      base + ''


        However there are no options defined in `${showOption prefix}'. Are you sure you've
        declared your options properly? This can happen if you e.g. declared your options in `types.submodule'
        under `config' rather than `options'.
      '';

  noOptionMessage = loc: decl:
    "In module ${decl._file}: expected an option declaration at option path `${showOption loc}` but got an attribute set with type ${decl.options._type}"
    + lib.optionalString (decl.options._type == "option-type") ("\n\n" + ''
      When declaring an option, you must wrap the type in a `mkOption` call. It should look somewhat like:
          ${lib.optionalString (length loc > 1) "\n    # ${showOption loc}"}
          ${lib.strings.escapeNixIdentifier (lib.last loc)} = lib.mkOption {
            description = ...;
            type = <the type you wrote for ${lib.strings.escapeNixIdentifier (lib.last loc)}>;
            ...
          };
    '');
  showRawDecls = loc: decls:
    concatStringsSep "\n" (lib.sort lib.lessThan (concatMap (d: map
      (name: " - option(s) with prefix `${showOption (loc ++ [ name ])}' in module `${d._file}'")
      (attrNames d.options)) decls));

  # Arguments that args lacks come from _module.args, each only when it is used.
  applyModuleArgs = key: f: args@{ config, ... }:
    f (args // mapAttrs (name: _:
      addErrorContext ''while evaluating the module argument `${name}' in "${key}":''
        (args.${name} or config._module.args.${name})) (lib.functionArgs f));
in
rec {
  evalModules =
    evalArgs@{ modules, prefix ? [ ], specialArgs ? { }, class ? null, args ? { }, check ? true }:
    let
      ownModules = modules
        ++ optional (evalArgs ? args) { config._module.args = args; }
        ++ optional (evalArgs ? check) { config._module.check = mkDefault check; };

      internalModule = {
        _file = "lib/modules.nix";
        key = "lib/modules.nix";
        options._module = {
          args = lib.mkOption {
            type = lib.types.lazyAttrsOf lib.types.raw;
            internal = true;
            description = "Arguments passed to each module.";
          };
          check = lib.mkOption {
            type = lib.types.bool;
            default = true;
            internal = true;
            description = "Whether every definition must have a declared option.";
          };
          freeformType = lib.mkOption {
            type = lib.types.nullOr lib.types.optionType;
            default = null;
            internal = true;
            description = "The type that definitions without a declared option merge with.";
          };
          specialArgs = lib.mkOption {
            readOnly = true;
            internal = true;
            description = "Arguments that imports may use too.";
          };
        };
        config._module = {
          args = { inherit extendModules; moduleType = type; };
          inherit specialArgs;
        };
      };

      collected = collectModules class (specialArgs.modulesPath or "") (ownModules ++ [ internalModule ])
        ({ inherit config options lib specialArgs; _class = class; _prefix = prefix; } // specialArgs);
      merged = mergeModules prefix (lib.reverseList collected);
      options = merged.matchedOptions;

      declared = lib.mapAttrsRecursiveCond (v: !isOption v) (_: opt: opt.value) options;
      freeformType = declared._module.freeformType;
      freeform =
        if merged.unmatchedDefns == [ ] then { }
        else freeformType.merge prefix
          (map (def: { inherit (def) file; value = setAttrByPath def.prefix def.value; }) merged.unmatchedDefns);
      config = if freeformType == null then declared else lib.recursiveUpdate freeform declared;

      checked =
        if declared._module.check && freeformType == null && merged.unmatchedDefns != [ ]
        then throw (unmatchedMessage prefix options (head merged.unmatchedDefns))
        else lib.id;

      extendModules = extension@{ modules ? [ ], specialArgs ? { }, prefix ? [ ] }: evalModules (evalArgs // {
        modules = ownModules ++ modules;
        specialArgs = evalArgs.specialArgs or { } // specialArgs;
        prefix = extension.prefix or evalArgs.prefix or [ ];
      });
      type = lib.types.submoduleWith { inherit modules specialArgs class; };
    in
    {
      _type = "configuration";
      options = checked options;
      config = checked (removeAttrs config [ "_module" ]);
      _module = checked config._module;
      inherit extendModules type class;
    };

  # Every module that imports reach, each key once, without the disabled ones.
  collectModules = class: modulesPath: initial: args:
    let
      load = file: key: m:
        if isFunction m then unifyModuleSyntax file key (applyModuleArgs key m args)
        else if isAttrs m then
          if m._type or "module" == "module" then unifyModuleSyntax file key m
          else if m._type == "if" || m._type == "override" then load file key { config = m; }
          else if m._type == "configuration" then
            throw "Could not load a value as a module, because it is of type \"configuration\", in file ${file}."
          else throw "Could not load a value as a module, because it is of type ${lib.strings.escapeNixString m._type}, in file ${file}."
        else if builtins.isList m then
          throw "Module imports can't be nested lists. Perhaps you meant to remove one level of lists? Definitions: ${showDefs [ { inherit file; value = m; } ]}"
        else
          let path = toString m; loaded = import m; in
          unifyModuleSyntax path path (if isFunction loaded then applyModuleArgs path loaded args else loaded);
      checkClass = m:
        if class == null || m._class == null || m._class == class then m
        else throw "The module `${m._file}' (class: ${lib.strings.escapeNixString m._class}) cannot be imported into a module evaluation that expects class ${lib.strings.escapeNixString class}.";
      structure = file: key: modules:
        let
          nodes = lib.imap1 (n: m:
            let
              module = checkClass (load file "${key}:anon-${toString n}" m);
              imported = structure module._file module.key module.imports;
            in
            {
              inherit (module) key;
              inherit module;
              modules = imported.nodes;
              disabled = map (d: { inherit (module) _file; inherit d; }) module.disabledModules ++ imported.disabled;
            }) modules;
        in
        { inherit nodes; disabled = concatMap (n: n.disabled) nodes; };
      tree = structure lib.unknownModule "" initial;
      disabledKey = { _file, d }:
        if builtins.isString d then (if lib.hasPrefix "/" d then d else "${toString modulesPath}/${d}")
        else if lib.strings.isConvertibleWithToString d then toString d
        else if d ? key then d.key
        else throw "Module `${_file}` contains a disabledModules item that is an attribute set, presumably a module, that does not have a `key` attribute.";
      disabledKeys = map disabledKey tree.disabled;
      enabled = filter (n: !(builtins.elem n.key disabledKeys));
    in
    map (n: n.module) (builtins.genericClosure {
      startSet = enabled tree.nodes;
      operator = n: enabled n.modules;
    });

  # Any way to write a module as { _file, key, imports, options, config, … }.
  unifyModuleSyntax = file: key: m:
    let
      common = {
        _file = toString m._file or file;
        _class = m._class or null;
        key = toString m.key or key;
        disabledModules = m.disabledModules or [ ];
      };
      withFreeform = config:
        if m ? freeformType then mkMerge [ config { _module.freeformType = m.freeformType; } ] else config;
      withMeta = config: if m ? meta then mkMerge [ config { inherit (m) meta; } ] else config;
      bad = removeAttrs m [ "_class" "_file" "key" "disabledModules" "imports" "options" "config" "meta" "freeformType" ];
    in
    if !isAttrs m then throw "module ${file} (${key}) does not look like a module."
    else if m ? config || m ? options then
      if bad != { } then
        throw "Module `${key}' has an unsupported attribute `${head (attrNames bad)}'. This is caused by introducing a top-level `config' or `options' attribute. Add configuration attributes immediately on the top level instead, or move all of them (namely: ${toString (attrNames bad)}) into the explicit `config' attribute."
      else common // {
        imports = m.imports or [ ];
        options = m.options or { };
        config = withFreeform (withMeta (m.config or { }));
      }
    else common // {
      imports = m.require or [ ] ++ m.imports or [ ];
      options = { };
      config = withFreeform (removeAttrs m [ "_class" "_file" "key" "disabledModules" "require" "imports" "freeformType" ]);
    };
  setDefaultModuleLocation = file: m: { _file = file; imports = [ m ]; };
  importApply = path: arg: setDefaultModuleLocation path (import path arg);

  mergeModules = prefix: modules:
    mergeModules' prefix modules
      (concatMap (m: map (config: { file = m._file; inherit config; }) (pushDownProperties m.config)) modules);

  # One level of the option tree: declarations by name, the definitions that
  # belong to each, and the definitions that belong to none.
  mergeModules' = prefix: modules: configs:
    let
      declsByName = lib.zipAttrs (map (m:
        if !isAttrs m.options then
          throw ''
            An option declaration for `${concatStringsSep "." prefix}' has type
            `${builtins.typeOf m.options}' rather than an attribute set.
            Did you mean to define this outside of `options'?
          ''
        else mapAttrs (n: option: {
          inherit (m) _file;
          pos = builtins.unsafeGetAttrPos n m.options;
          options = option;
        }) m.options) modules);
      checked = map (c:
        if isAttrs c.config then c
        else throw ''
          In module `${c.file}', you're trying to define a value of type `${builtins.typeOf c.config}'
          rather than an attribute set for the option
          `${concatStringsSep "." prefix}'!

          This usually happens if `${concatStringsSep "." prefix}' has option
          definitions inside that are not matched. Please check how to properly define
          this option by e.g. referring to `man 5 configuration.nix'!
        '') configs;
      defsByName = lib.zipAttrs (map (c: mapAttrs (_: value: { inherit (c) file; inherit value; }) c.config) checked);
      pushDown = concatMap (d: map (config: { inherit (d) file; inherit config; }) (pushDownProperties d.value));

      # Options declared below an option are options of its submodule.
      asSubmodule = decl:
        if isOption decl.options then decl
        else decl // {
          options = lib.mkOption {
            type = lib.types.submoduleWith { modules = [ { inherit (decl) options; } ]; shorthandOnlyDefinesConfig = null; };
          };
        };

      results = mapAttrs (name: decls:
        let
          loc = prefix ++ [ name ];
          optionDecls = filter (d: d.options ? _type && (isOption d.options || throw (noOptionMessage loc d))) decls;
          evaluate = decls: {
            matchedOptions = evalOptionValue loc (fixupOptionType loc (mergeOptionDecls loc decls)) (defsByName.${name} or [ ]);
            unmatchedDefns = [ ];
          };
        in
        if length optionDecls == length decls then evaluate decls
        else if optionDecls == [ ] then mergeModules' loc decls (pushDown (defsByName.${name} or [ ]))
        else if lib.all (d: d.options.type.name or null == "submodule") optionDecls then evaluate (map asSubmodule decls)
        else
          let parent = head optionDecls; in
          throw "The option `${showOption loc}' in module `${parent._file}' would be a parent of the following options, but its type `${parent.options.type.description or "<no description>"}' does not support nested options.\n${showRawDecls loc (filter (d: !isOption d.options) decls)}") declsByName;
      unmatchedByName = mapAttrs (_: r: r.unmatchedDefns) results // removeAttrs defsByName (attrNames results);
    in
    {
      matchedOptions = mapAttrs (_: r: r.matchedOptions) results;
      unmatchedDefns =
        if configs == [ ] then [ ]
        else builtins.concatLists (lib.mapAttrsToList
          (name: map (def: def // { prefix = [ name ] ++ def.prefix or [ ]; })) unmatchedByName);
    };
  # Several declarations of one option: their types merge, the rest may be
  # said only once.
  mergeOptionDecls = loc: foldl' (res: opt:
    let
      both = attr: opt.options ? ${attr} && res ? ${attr};
      declaredTwice = throw "The option `${showOption loc}' in `${opt._file}' is already declared in ${showFiles res.declarations}.";
      mergedType = res.type.typeMerge opt.options.type.functor;
      subModules = opt.options.type.getSubModules or null;
    in
    if lib.any both [ "default" "example" "description" "apply" ] then declaredTwice
    else opt.options // res // {
      declarations = res.declarations ++ [ opt._file ];
      declarationPositions = res.declarationPositions ++ [
        (if opt.pos != null then opt.pos else { file = opt._file; line = null; column = null; })
      ];
      options = lib.optionals (subModules != null) (map (setDefaultModuleLocation opt._file) subModules) ++ res.options;
    } // lib.optionalAttrs (both "type") { type = if mergedType != null then mergedType else declaredTwice; })
    { inherit loc; declarations = [ ]; declarationPositions = [ ]; options = [ ]; };

  fixupOptionType = _: opt:
    if opt.type.getSubModules or null == null then opt // { type = opt.type or lib.types.unspecified; }
    else opt // { type = opt.type.substSubModules opt.options; options = [ ]; };

  evalOptionValue = loc: opt: defs:
    let
      defs' = optional (opt ? default) { file = head opt.declarations; value = mkOptionDefault opt.default; } ++ defs;
      res =
        if opt.readOnly or false && length defs' > 1 then
          throw "The option `${showOption loc}' is read-only, but it's set multiple times. Definition values:${
            showDefs (map (d: d // { value = (mergeDefinitions loc opt.type [ d ]).mergedValue; }) defs')}"
        else mergeDefinitions loc opt.type defs';
    in
    opt // {
      value = addErrorContext "while evaluating the option `${showOption loc}':"
        (if opt ? apply then opt.apply res.mergedValue else res.mergedValue);
      inherit (res.defsFinal') highestPrio;
      definitions = map (d: d.value) res.defsFinal;
      files = map (d: d.file) res.defsFinal;
      definitionsWithLocations = res.defsFinal;
      inherit (res) isDefined;
      __toString = _: showOption loc;
    };

  # The definitions of one value of the given type, [ { file, value } ]: those
  # that count, in order, and what they merge to.
  mergeDefinitions = loc: type: defs: rec {
    defsFinal' =
      let
        discharged = concatMap (d: map
          (value: if value._type or null == "definition" then value else { inherit (d) file; inherit value; })
          (addErrorContext "while evaluating definitions from `${d.file}':" (dischargeProperties d.value))) defs;
        overridden = filterOverrides' discharged;
        ordered = lib.any (d: d.value._type or "" == "order") overridden.values;
      in
      {
        values = if ordered then sortProperties overridden.values else overridden.values;
        inherit (overridden) highestPrio;
      };
    defsFinal = defsFinal'.values;
    isDefined = defsFinal != [ ];
    mergedValue =
      let invalid = filter (d: !type.check d.value) defsFinal; in
      if isDefined then
        if invalid == [ ] then type.merge loc defsFinal
        else throw "A definition for option `${showOption loc}' is not of type `${type.description}'. ${type.describeInvalid loc invalid defsFinal}"
      else type.emptyValue.value or (throw
        "The option `${showOption loc}' was accessed but has no value defined. Try setting the option.");
    optionalValue = if isDefined then { value = mergedValue; } else { };
  };

  # mkMerge, mkIf and mkOverride around a set become definitions of its members,
  # so that a condition may look at the configuration it is part of.
  pushDownProperties = cfg:
    let inside = f: v: if isAttrs v then mapAttrs (_: f) v else v; in
    if cfg._type or "" == "merge" then concatMap pushDownProperties cfg.contents
    else if cfg._type or "" == "if" then map (inside (mkIf cfg.condition)) (pushDownProperties cfg.content)
    else if cfg._type or "" == "override" then map (inside (mkOverride cfg.priority)) (pushDownProperties cfg.content)
    else [ cfg ];

  # Here the conditions of mkIf are looked at.
  dischargeProperties = def:
    if def._type or "" == "merge" then concatMap dischargeProperties def.contents
    else if def._type or "" == "if" then
      if !builtins.isBool def.condition then throw "‘mkIf’ called with a non-Boolean condition"
      else if def.condition then dischargeProperties def.content
      else [ ]
    else [ def ];

  filterOverrides = defs: (filterOverrides' defs).values;
  filterOverrides' = defs:
    let
      priority = d: if d.value._type or "" == "override" then d.value.priority else defaultOverridePriority;
      highestPrio = foldl' (p: d: lib.min (priority d) p) 9999 defs;
    in
    {
      values = map (d: if d.value._type or "" == "override" then d // { value = d.value.content; } else d)
        (filter (d: priority d == highestPrio) defs);
      inherit highestPrio;
    };

  sortProperties = defs:
    lib.sort (a: b: a.priority or defaultOrderPriority < b.priority or defaultOrderPriority)
      (map (d: if d.value._type or "" == "order" then d // { value = d.value.content; inherit (d.value) priority; } else d) defs);

  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkAssert = assertion: message: mkIf (if assertion then true else throw "\nFailed assertion: ${message}");
  mkMerge = contents: { _type = "merge"; inherit contents; };
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkOptionDefault = mkOverride 1500;
  mkDefault = mkOverride 1000;
  defaultOverridePriority = 100;
  mkImageMediaOverride = mkOverride 60;
  mkForce = mkOverride 50;
  mkVMOverride = mkOverride 10;
  mkOrder = priority: content: { _type = "order"; inherit priority content; };
  mkBefore = mkOrder 500;
  defaultOrderPriority = 1000;
  mkAfter = mkOrder 1500;
  mkDefinition = args@{ file, value, ... }: args // { _type = "definition"; };

  mkAliasIfDef = option: mkIf (isOption option && option.isDefined);
  mkAliasDefinitions = mkAliasAndWrapDefinitions lib.id;
  mkAliasAndWrapDefinitions = wrap: option: mkAliasIfDef option (wrap (mkMerge option.definitions));
  mkAliasAndWrapDefsWithPriority = wrap: option:
    mkAliasIfDef option (wrap (mkMerge (map (mkOverride (option.highestPrio or defaultOverridePriority)) option.definitions)));

  mkRemovedOptionModule = path: instructions: { options, ... }:
    let opt = lib.getAttrFromPath path options; in
    {
      options = setAttrByPath path (lib.mkOption {
        visible = false;
        apply = _: throw "The option `${showOption path}' can no longer be used since it's been removed. ${instructions}";
      });
      config.assertions = [ {
        assertion = !opt.isDefined;
        message = ''
          The option definition `${showOption path}' in ${showFiles opt.files} no longer has any effect; please remove it.
          ${instructions}
        '';
      } ];
    };
  mkRenamedOptionModule = from: to: doRename {
    inherit from to;
    visible = false;
    warn = true;
    use = builtins.trace "Obsolete option `${showOption from}' is used. It was renamed to `${showOption to}'.";
  };
  mkRenamedOptionModuleWith = { from, to, sinceRelease }:
    let warn = lib.oldestSupportedReleaseIsAtLeast sinceRelease; in
    doRename {
      inherit from to warn;
      visible = false;
      use = lib.warnIf warn "Obsolete option `${showOption from}' is used. It was renamed to `${showOption to}'.";
    };
  mkAliasOptionModule = from: to: doRename { inherit from to; visible = true; warn = false; use = lib.id; };
  mkChangedOptionModule = from: to: mkMergedOptionModule [ from ] to;
  mkMergedOptionModule = from: to: mergeFn: { config, options, ... }:
    let
      unset = "_mkMergedOptionModule";
      defined = filter (path: lib.getAttrFromPath path config != unset) from;
    in
    {
      options = foldl' lib.recursiveUpdate { }
        (map (path: setAttrByPath path (lib.mkOption { visible = false; default = unset; })) from);
      config = {
        warnings = map (path: "The option `${showOption path}' defined in ${showFiles (lib.getAttrFromPath path options).files} has been changed to `${showOption to}' that has a different type. Please read `${showOption to}' documentation and update your configuration accordingly.") defined;
      } // setAttrByPath to (mkMerge (optional (defined != [ ]) (mergeFn config)));
    };
  doRename = { from, to, visible, warn, use, withPriority ? true, condition ? true }: { config, options, ... }:
    let
      fromOpt = lib.getAttrFromPath from options;
      alias = if withPriority then mkAliasAndWrapDefsWithPriority else mkAliasAndWrapDefinitions;
    in
    {
      options = setAttrByPath from (lib.mkOption {
        inherit visible;
        description = "Alias of {option}`${showOption to}`.";
        apply = _: use (lib.attrByPath to (abort "Renaming error: option `${showOption to}' does not exist.") config);
        type = (lib.attrByPath to { } options).type or (lib.types.submodule { });
      });
      config = mkIf condition (mkMerge [
        (lib.optionalAttrs (options ? warnings) {
          warnings = optional (warn && fromOpt.isDefined)
            "The option `${showOption from}' defined in ${showFiles fromOpt.files} has been renamed to `${showOption to}'.";
        })
        (alias (setAttrByPath to) fromOpt)
      ]);
    };
}
