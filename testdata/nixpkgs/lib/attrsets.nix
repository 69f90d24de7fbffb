# Functions on attribute sets.
{ lib }:
rec {
  inherit (builtins)
    attrNames attrValues catAttrs getAttr hasAttr intersectAttrs isAttrs listToAttrs mapAttrs
    removeAttrs zipAttrsWith;

  nameValuePair = name: value: { inherit name value; };
  attrByPath = path: default: set:
    if path == [ ] then set
    else if builtins.isAttrs set && set ? ${builtins.head path} then
      attrByPath (builtins.tail path) default set.${builtins.head path}
    else default;
  hasAttrByPath = path: set:
    path == [ ]
    || (builtins.isAttrs set && set ? ${builtins.head path} && hasAttrByPath (builtins.tail path) set.${builtins.head path});
  getAttrFromPath = path:
    attrByPath path (abort ("cannot find attribute '" + builtins.concatStringsSep "." path + "'"));
  setAttrByPath = path: value: lib.foldr (name: inner: { ${name} = inner; }) value path;
  getAttrs = names: set: lib.genAttrs names (name: set.${name});
  attrVals = names: set: map (name: set.${name}) names;
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  genAttrs' = xs: f: listToAttrs (map f xs);
  mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  attrsToList = mapAttrsToList nameValuePair;
  concatMapAttrs = f: set: builtins.foldl' (a: b: a // b) { } (attrValues (mapAttrs f set));
  filterAttrs = pred: set:
    removeAttrs set (builtins.filter (name: !(pred name set.${name})) (attrNames set));
  filterAttrsRecursive = pred: set:
    mapAttrs (_: v: if builtins.isAttrs v then filterAttrsRecursive pred v else v) (filterAttrs pred set);
  foldlAttrs = f: init: set: builtins.foldl' (acc: name: f acc name set.${name}) init (attrNames set);
  foldAttrs = op: nul: list: mapAttrs (_: values: lib.foldr op nul values) (zipAttrs list);
  mapAttrsRecursive = mapAttrsRecursiveCond (_: true);
  mapAttrsRecursiveCond = cond: f: set:
    let
      go = path: mapAttrs (name: v:
        if builtins.isAttrs v && cond v then go (path ++ [ name ]) v else f (path ++ [ name ]) v);
    in
    go [ ] set;
  collect = pred: set:
    if pred set then [ set ]
    else if builtins.isAttrs set then builtins.concatMap (collect pred) (attrValues set)
    else [ ];
  zipAttrsWithNames = names: f: sets: lib.genAttrs names (name: f name (catAttrs name sets));
  zipAttrs = zipAttrsWith (_: values: values);
  recursiveUpdateUntil = pred: lhs: rhs:
    let
      go = path: zipAttrsWith (name: values:
        let here = path ++ [ name ];
        in
        if builtins.length values == 1 || pred here (builtins.elemAt values 1) (builtins.head values)
        then builtins.head values
        else go here values);
    in
    go [ ] [ rhs lhs ];
  recursiveUpdate = recursiveUpdateUntil (_: lhs: rhs: !(builtins.isAttrs lhs && builtins.isAttrs rhs));
  matchAttrs = pattern: set:
    lib.all (name: set ? ${name} && (
      if builtins.isAttrs pattern.${name}
      then builtins.isAttrs set.${name} && matchAttrs pattern.${name} set.${name}
      else pattern.${name} == set.${name}
    )) (attrNames pattern);
  optionalAttrs = cond: set: if cond then set else { };
  mergeAttrsList = builtins.foldl' (a: b: a // b) { };
  overrideExisting = old: new: mapAttrs (name: v: new.${name} or v) old;
  updateManyAttrsByPath = updates: set:
    builtins.foldl' (acc: u: recursiveUpdateUntil (path: _: _: path == u.path) acc
      (setAttrByPath u.path (u.update (getAttrFromPath u.path acc)))) set updates;
  cartesianProduct = sets:
    builtins.foldl' (acc: name: builtins.concatMap (row: map (v: row // { ${name} = v; }) sets.${name}) acc)
      [ { } ] (attrNames sets);
  isDerivation = v: v.type or null == "derivation";
  recurseIntoAttrs = set: set // { recurseForDerivations = true; };
  dontRecurseIntoAttrs = set: set // { recurseForDerivations = false; };

  getOutput = output: package:
    if package.outputUnspecified or true then package.${output} or package.out or package else package;
  getBin = getOutput "bin";
  getLib = getOutput "lib";
  getDev = getOutput "dev";
  toDerivation = path:
    let
      storePath = builtins.storePath path;
      self = {
        type = "derivation";
        name = builtins.unsafeDiscardStringContext (builtins.substring 33 (-1) (baseNameOf storePath));
        outPath = storePath;
        outputs = [ "out" ];
        out = self;
        outputName = "out";
      };
    in
    self;
}
