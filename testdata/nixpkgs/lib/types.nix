# The types of options.
{ lib }:
let
  inherit (builtins) elem elemAt filter head isAttrs isBool isFloat isInt isList isString length mapAttrs;
  inherit (lib) all any concatMapStringsSep getFiles isFunction showFiles showOption;
  inherit (lib.options) showDefs;
  inherit (lib.modules) evalModules mergeDefinitions;

  defaultTypeMerge = f: g:
    if f.name != g.name then null
    else if f.payload == null then f.type
    else
      let payload = f.binOp f.payload g.payload;
      in if payload == null then null else f.type payload;
  functorOf = name: { inherit name; type = lib.types.${name} or null; payload = null; binOp = _: _: null; };
  # The functor of a type that holds one other type.
  wraps = name: type: elemType: functorOf name // {
    inherit type;
    payload = { inherit elemType; };
    binOp = a: b:
      let merged = a.elemType.typeMerge b.elemType.functor;
      in if merged == null then null else { elemType = merged; };
  };

  # A description inside another one, in parentheses where it would be ambiguous.
  phrase = classes: t:
    if elem (t.descriptionClass or null) classes then t.description else "(${t.description})";

  # Types that hold others say it a little differently.
  typeError = _: invalid: _: "TypeError: Definition values: ${showDefs invalid}";

  simple = name: description: check: merge: mkOptionType {
    inherit name description check merge;
    descriptionClass = "noun";
  };

  mkOptionType =
    { name, description ? name, descriptionClass ? null, check ? (_: true), merge ? lib.mergeDefaultOption
    , emptyValue ? { }, getSubOptions ? (_: { }), getSubModules ? null, substSubModules ? (_: null)
    , functor ? functorOf name, typeMerge ? defaultTypeMerge functor, nestedTypes ? { }
    , deprecationMessage ? null
    , # The end of the message about definitions that check refuses, given those
      # and all of them.
      describeInvalid ? (_: invalid: _: "Definition values:${showDefs invalid}")
    }:
    {
      _type = "option-type";
      inherit name descriptionClass check merge emptyValue getSubOptions getSubModules substSubModules
        typeMerge functor nestedTypes deprecationMessage describeInvalid;
      description = if description == null then name else description;
    };
in
rec {
  inherit mkOptionType defaultTypeMerge;
  defaultFunctor = functorOf;
  isType = type: x: x._type or "" == type;
  setType = type: value: value // { _type = type; };
  isOptionType = isType "option-type";
  addCheck = type: check: type // { check = x: type.check x && check x; };

  raw = simple "raw" "raw value" (_: true) lib.mergeOneOption;
  unspecified = simple "unspecified" "unspecified value" (_: true) lib.mergeDefaultOption;
  bool = simple "bool" "boolean" isBool lib.mergeEqualOption;
  boolByOr = simple "boolByOr" "boolean (merged using or)" isBool (_: any (d: d.value));
  int = simple "int" "signed integer" isInt lib.mergeEqualOption;
  float = simple "float" "floating point number" isFloat lib.mergeEqualOption;
  number = either int float;
  str = simple "str" "string" isString lib.mergeEqualOption;
  optionType = simple "optionType" "optionType" isOptionType lib.mergeOneOption;
  anything = simple "anything" "anything" (_: true) (loc: defs:
    let
      typeOf = v: if isAttrs v && lib.isStringLike v then "stringCoercibleSet" else builtins.typeOf v;
      type = typeOf (head defs).value;
      merge = {
        set = (attrsOf anything).merge;
        stringCoercibleSet = lib.mergeOneOption;
        lambda = loc: defs: arg:
          anything.merge (loc ++ [ "<function body>" ]) (map (d: { inherit (d) file; value = d.value arg; }) defs);
      }.${type} or lib.mergeEqualOption;
    in
    if all (d: typeOf d.value == type) defs then merge loc defs
    else throw "The option `${showOption loc}' has conflicting option types in ${showFiles (getFiles defs)}");

  ints =
    let
      between = lowest: highest:
        assert lib.assertMsg (lowest <= highest) "ints.between: lowest must be smaller than highest";
        addCheck int (x: x >= lowest && x <= highest) // {
          name = "intBetween";
          description = "integer between ${toString lowest} and ${toString highest} (both inclusive)";
        };
      sized = name: what: lowest: highest: between lowest highest // {
        inherit name;
        description = "${what}; between ${toString lowest} and ${toString highest} (both inclusive)";
      };
      unsignedBits = bits: range: sized "unsignedInt${toString bits}" "${toString bits} bit unsigned integer" 0 (range - 1);
      signedBits = bits: range: sized "signedInt${toString bits}" "${toString bits} bit signed integer" (0 - range / 2) (range / 2 - 1);
      meaning = name: what: sign: check: addCheck int check // {
        inherit name;
        description = "${what} integer, meaning ${sign}";
        descriptionClass = "nonRestrictiveClause";
      };
    in
    {
      inherit between;
      unsigned = meaning "unsignedInt" "unsigned" ">=0" (x: x >= 0);
      positive = meaning "positiveInt" "positive" ">0" (x: x > 0);
      u8 = unsignedBits 8 256;
      u16 = unsignedBits 16 65536;
      u32 = unsignedBits 32 4294967296;
      s8 = signedBits 8 256;
      s16 = signedBits 16 65536;
      s32 = signedBits 32 4294967296;
    };
  port = ints.u16;

  nonEmptyStr = simple "nonEmptyStr" "non-empty string"
    (x: isString x && builtins.match "[ \t\n]*" x == null) lib.mergeEqualOption;
  singleLineStr = simple "singleLineStr" "(optionally newline-terminated) single-line string"
    (x: isString x && builtins.match "[^\n\r]*\n?" x != null)
    (loc: defs: lib.removeSuffix "\n" (lib.mergeEqualOption loc defs));
  strMatching = pattern:
    simple "strMatching ${lib.strings.escapeNixString pattern}" "string matching the pattern ${pattern}"
      (x: isString x && builtins.match pattern x != null) lib.mergeEqualOption // rec {
      functor = functorOf "strMatching" // {
        type = p: strMatching p.pattern;
        payload = { inherit pattern; };
        binOp = a: b: if a == b then a else null;
      };
      typeMerge = defaultTypeMerge functor;
    };
  separatedString = sep: mkOptionType {
    name = "separatedString";
    description = "strings concatenated with ${builtins.toJSON sep}";
    descriptionClass = "noun";
    check = isString;
    merge = _: defs: lib.concatStringsSep sep (lib.getValues defs);
    functor = functorOf "separatedString" // {
      type = p: separatedString p.sep;
      payload = { inherit sep; };
      binOp = a: b: if a == b then a else null;
    };
  };
  lines = separatedString "\n";
  commas = separatedString ",";
  envVar = separatedString ":";
  passwdEntry = type: addCheck type (s: !(lib.hasInfix ":" s || lib.hasInfix "\n" s)) // {
    name = "passwdEntry ${type.name}";
    description = "${phrase [ "noun" ] type}, not containing newlines or colons";
    descriptionClass = "nonRestrictiveClause";
  };

  attrs = mkOptionType {
    name = "attrs";
    description = "attribute set";
    check = isAttrs;
    merge = _: builtins.foldl' (acc: d: acc // d.value) { };
    emptyValue.value = { };
  };
  package = mkOptionType {
    name = "package";
    descriptionClass = "noun";
    check = x: lib.isDerivation x || lib.isStorePath x;
    merge = loc: defs:
      let res = lib.mergeOneOption loc defs;
      in if builtins.isPath res || (isString res && !(builtins.hasContext res)) then lib.toDerivation res else res;
  };
  shellPackage = package // { check = x: lib.isDerivation x && x ? shellPath; };
  pkgs = addCheck (unique { message = "A Nixpkgs pkgs set can not be merged with another pkgs set."; } attrs // {
    name = "pkgs";
    description = "Nixpkgs package set";
    descriptionClass = "noun";
  }) (x: x._type or null == "pkgs");
  path = pathWith { absolute = true; };
  pathInStore = pathWith { inStore = true; };
  externalPath = pathWith { absolute = true; inStore = false; };
  pathWith = { inStore ? null, absolute ? null }: mkOptionType {
    name = "path";
    description = (if absolute == null then "" else if absolute then "absolute " else "relative ") + "path"
      + (if inStore == null then "" else if inStore then " in the Nix store" else " not in the Nix store");
    descriptionClass = "noun";
    merge = lib.mergeEqualOption;
    check = x:
      (if inStore == null || inStore then lib.isStringLike x else isString x)
      && (inStore == null || inStore == (builtins.match "${lib.escapeRegex builtins.storeDir}/[^.].*" (toString x) != null))
      && (absolute == null || absolute == lib.hasPrefix "/" (toString x));
    functor = functorOf "path" // {
      type = pathWith;
      payload = { inherit inStore absolute; };
      binOp = a: b: if a == b then a else null;
    };
  };

  listOf = elemType: mkOptionType {
    name = "listOf";
    description = "list of ${phrase [ "noun" "composite" ] elemType}";
    descriptionClass = "composite";
    describeInvalid = typeError;
    check = isList;
    merge = loc: defs: map (x: x.value) (filter (x: x ? value) (builtins.concatLists (lib.imap1 (n: def:
      lib.imap1 (m: value: (mergeDefinitions
        (loc ++ [ "[definition ${toString n}-entry ${toString m}]" ]) elemType
        [ { inherit (def) file; inherit value; } ]).optionalValue) def.value) defs)));
    emptyValue.value = [ ];
    getSubOptions = prefix: elemType.getSubOptions (prefix ++ [ "*" ]);
    inherit (elemType) getSubModules;
    substSubModules = m: listOf (elemType.substSubModules m);
    functor = wraps "listOf" (p: listOf p.elemType) elemType;
    nestedTypes = { inherit elemType; };
  };
  nonEmptyListOf = elemType: addCheck (listOf elemType) (l: l != [ ]) // {
    description = "non-empty ${phrase [ "noun" ] (listOf elemType)}";
    emptyValue = { };
    substSubModules = m: nonEmptyListOf (elemType.substSubModules m);
  };

  attrsOf = elemType: attrsWith { inherit elemType; };
  lazyAttrsOf = elemType: attrsWith { inherit elemType; lazy = true; };
  attrsWith = { elemType, lazy ? false, placeholder ? "name" }: mkOptionType {
    name = if lazy then "lazyAttrsOf" else "attrsOf";
    description = (if lazy then "lazy attribute set of " else "attribute set of ") + phrase [ "noun" "composite" ] elemType;
    descriptionClass = "composite";
    describeInvalid = typeError;
    check = isAttrs;
    merge = loc: defs:
      let
        members = lib.zipAttrsWith (name: mergeDefinitions (loc ++ [ name ]) elemType)
          (map (def: mapAttrs (_: value: { inherit (def) file; inherit value; }) def.value) defs);
      in
      if lazy then mapAttrs (_: m: m.optionalValue.value or elemType.emptyValue.value or m.mergedValue) members
      else mapAttrs (_: m: m.optionalValue.value) (lib.filterAttrs (_: m: m.isDefined) members);
    emptyValue.value = { };
    getSubOptions = prefix: elemType.getSubOptions (prefix ++ [ "<${placeholder}>" ]);
    inherit (elemType) getSubModules;
    substSubModules = m: attrsWith { elemType = elemType.substSubModules m; inherit lazy placeholder; };
    functor = functorOf "attrsWith" // {
      type = attrsWith;
      payload = { inherit elemType lazy placeholder; };
      binOp = a: b:
        let merged = a.elemType.typeMerge b.elemType.functor; in
        if merged == null || a.lazy != b.lazy then null
        else { elemType = merged; inherit (a) lazy; placeholder = if a.placeholder == "name" then b.placeholder else a.placeholder; };
    };
    nestedTypes = { inherit elemType; };
  };

  uniq = unique { message = ""; };
  unique = { message }: type: mkOptionType {
    name = "unique";
    inherit (type) description descriptionClass check emptyValue getSubOptions getSubModules;
    merge = lib.mergeUniqueOption { inherit message; inherit (type) merge; };
    substSubModules = m: uniq (type.substSubModules m);
    functor = wraps "unique" (p: unique { inherit message; } p.elemType) type;
    nestedTypes.elemType = type;
  };
  nullOr = elemType: mkOptionType {
    name = "nullOr";
    description = "null or ${phrase [ "noun" "conjunction" ] elemType}";
    descriptionClass = "conjunction";
    check = x: x == null || elemType.check x;
    merge = loc: defs:
      let nulls = filter (d: d.value == null) defs; in
      if nulls == [ ] then elemType.merge loc defs
      else if length nulls == length defs then null
      else throw "The option `${showOption loc}` is defined both null and not null, in ${showFiles (getFiles defs)}.";
    emptyValue.value = null;
    inherit (elemType) getSubOptions getSubModules;
    substSubModules = m: nullOr (elemType.substSubModules m);
    functor = wraps "nullOr" (p: nullOr p.elemType) elemType;
    nestedTypes = { inherit elemType; };
  };
  functionTo = elemType: mkOptionType {
    name = "functionTo";
    description = "function that evaluates to a(n) ${phrase [ "noun" "composite" ] elemType}";
    descriptionClass = "composite";
    check = isFunction;
    merge = loc: defs: {
      __functionArgs = lib.zipAttrsWith (_: all lib.id) (map (d: lib.functionArgs d.value) defs);
      __functor = _: arg: (mergeDefinitions (loc ++ [ "<function body>" ]) elemType
        (map (d: { inherit (d) file; value = d.value arg; }) defs)).mergedValue;
    };
    getSubOptions = prefix: elemType.getSubOptions (prefix ++ [ "<function body>" ]);
    inherit (elemType) getSubModules;
    substSubModules = m: functionTo (elemType.substSubModules m);
    functor = wraps "functionTo" (p: functionTo p.elemType) elemType;
    nestedTypes = { inherit elemType; };
  };

  enum = values:
    let
      show = v:
        if isString v then ''"${v}"'' else if isInt v then toString v
        else if isBool v then lib.boolToString v else "<${builtins.typeOf v}>";
    in
    mkOptionType {
      name = "enum";
      description =
        if values == [ ] then "impossible (empty enum)"
        else if length values == 1 then "value ${show (head values)} (singular enum)"
        else "one of ${concatMapStringsSep ", " show values}";
      descriptionClass = if length values < 2 then "noun" else "conjunction";
      check = v: elem v values;
      merge = lib.mergeEqualOption;
      functor = functorOf "enum" // {
        type = p: enum p.values;
        payload = { inherit values; };
        binOp = a: b: { values = lib.lists.unique (a.values ++ b.values); };
      };
    };
  either = t1: t2:
    let
      describeInvalid = loc: _: defs: "TypeError: The option `${showOption loc}` is neither a value of type `${t1.description}` nor `${t2.description}`, Definition values: ${showDefs defs}";
    in
    mkOptionType {
      name = "either";
      description =
        if t1.descriptionClass or null == "nonRestrictiveClause"
        then "${t1.description}, or ${phrase [ "noun" "conjunction" ] t2}"
        else "${phrase [ "noun" "conjunction" ] t1} or ${phrase [ "noun" "conjunction" "composite" ] t2}";
      descriptionClass = "conjunction";
      inherit describeInvalid;
      check = x: t1.check x || t2.check x;
      merge = loc: defs:
        let values = lib.getValues defs; in
        if all t1.check values then t1.merge loc defs
        else if all t2.check values then t2.merge loc defs
        else throw "A definition for option `${showOption loc}' is not of type `${(either t1 t2).description}'. ${describeInvalid loc [ ] defs}";
      typeMerge = other:
        let
          left = t1.typeMerge (head other.payload.elemType).functor;
          right = t2.typeMerge (elemAt other.payload.elemType 1).functor;
        in
        if other.name == "either" && left != null && right != null then either left right else null;
      functor = functorOf "either" // { payload.elemType = [ t1 t2 ]; };
      nestedTypes = { left = t1; right = t2; };
    };
  oneOf = types:
    if types == [ ] then throw "types.oneOf needs to get at least one type in its argument"
    else builtins.foldl' either (head types) (builtins.tail types);
  coercedTo = from: coerce: to:
    let convert = v: if from.check v then coerce v else v; in
    assert lib.assertMsg (from.getSubModules == null) "coercedTo: coercedType must not have submodules (it’s a ${from.description})";
    mkOptionType {
      name = "coercedTo";
      description = "${phrase [ "noun" ] to} or ${phrase [ "noun" ] from} convertible to it";
      describeInvalid = typeError;
      check = x: (from.check x && to.check (coerce x)) || to.check x;
      merge = loc: defs: to.merge loc (map (d: d // { value = convert d.value; }) defs);
      inherit (to) emptyValue getSubOptions getSubModules;
      substSubModules = m: coercedTo from coerce (to.substSubModules m);
      typeMerge = _: null;
      nestedTypes = { coercedType = from; finalType = to; };
    };
  attrTag = tags: mkOptionType {
    name = "attrTag";
    description = "attribute-tagged union with choices: ${concatMapStringsSep ", " lib.strings.escapeNixIdentifier (builtins.attrNames tags)}";
    descriptionClass = "noun";
    check = v: isAttrs v && length (builtins.attrNames v) == 1 && tags ? ${head (builtins.attrNames v)};
    merge = loc: defs:
      let
        choices = lib.lists.unique (map (d: head (builtins.attrNames d.value)) defs);
        choice = head choices;
      in
      if length choices > 1 then
        throw "The option `${showOption loc}` is defined both as `${choice}` and `${elemAt choices 1}`, in ${showFiles (getFiles defs)}."
      else {
        ${choice} = (lib.modules.evalOptionValue (loc ++ [ choice ])
          ({ declarations = [ ]; } // tags.${choice})
          (map (d: { inherit (d) file; value = d.value.${choice}; }) defs)).value;
      };
  };

  submodule = modules: submoduleWith { shorthandOnlyDefinesConfig = true; modules = lib.toList modules; };
  submoduleWith =
    attrs@{ modules, specialArgs ? { }, shorthandOnlyDefinesConfig ? false, description ? null, class ? null }:
    let
      base = evalModules {
        inherit class specialArgs;
        modules = [ { _module.args.name = lib.mkOptionDefault "‹name›"; } ] ++ modules;
      };
      asModule = def:
        if isAttrs def.value && shorthandOnlyDefinesConfig == true
        then { _file = def.file; config = def.value; }
        else { _file = def.file; imports = [ def.value ]; };
      freeformType = (base.extendModules { modules = [ { config._module.check = lib.mkForce false; } ]; })._module.freeformType;
      agree = what: a: b:
        if a == null then b else if b == null || a == b then a
        else throw "A submoduleWith option is declared multiple times with conflicting ${what}";
    in
    mkOptionType {
      name = "submodule";
      description =
        if description != null then description
        else if freeformType ? description then "open submodule of ${phrase [ "noun" "composite" ] freeformType}"
        else "submodule";
      describeInvalid = typeError;
      check = x: isAttrs x || isFunction x || path.check x;
      merge = loc: defs: (base.extendModules {
        modules = [ { _module.args.name = lib.last loc; } ] ++ map asModule defs;
        prefix = loc;
      }).config;
      emptyValue.value = base.config;
      getSubOptions = prefix: (base.extendModules {
        inherit prefix;
        modules = [ { config._module.check = lib.mkForce false; } ];
      }).options;
      getSubModules = modules;
      substSubModules = m: submoduleWith (attrs // { modules = m; });
      functor = functorOf "submodule" // {
        type = submoduleWith;
        payload = { inherit modules class specialArgs shorthandOnlyDefinesConfig description; };
        binOp = a: b: {
          modules = a.modules ++ b.modules;
          class = agree "class values" a.class b.class;
          description = agree "descriptions" a.description b.description;
          shorthandOnlyDefinesConfig = agree "shorthandOnlyDefinesConfig values" a.shorthandOnlyDefinesConfig b.shorthandOnlyDefinesConfig;
          specialArgs =
            let both = builtins.intersectAttrs a.specialArgs b.specialArgs; in
            if both == { } then a.specialArgs // b.specialArgs
            else throw "A submoduleWith option is declared multiple times with the same specialArgs \"${toString (builtins.attrNames both)}\"";
        };
      };
    };
  deferredModule = deferredModuleWith { };
  deferredModuleWith = { staticModules ? [ ] }: mkOptionType {
    name = "deferredModule";
    description = "module";
    descriptionClass = "noun";
    check = x: isAttrs x || isFunction x || path.check x;
    merge = loc: defs: {
      imports = staticModules
        ++ map (d: lib.setDefaultModuleLocation "${d.file}, via option ${showOption loc}" d.value) defs;
    };
    inherit (submoduleWith { modules = staticModules; }) getSubOptions getSubModules;
    substSubModules = m: deferredModuleWith { staticModules = m; };
    functor = functorOf "deferredModuleWith" // {
      type = deferredModuleWith;
      payload = { inherit staticModules; };
      binOp = a: b: { staticModules = a.staticModules ++ b.staticModules; };
    };
  };
}
