# A flake with its inputs, as Nix' own call-flake.nix has them, but that sources
# which were folders come from where they are in the store: Nix would copy each of
# them again.
{
  source # the flake's own, unless it is one of trees
, locks # the contents of its lock file, or what they would be
, dir # where in its source the flake is
, trees # sources that were folders: their attributes, by the nodes of locks
, changed # locks is not what the lock file has
}:

let
  inherit (builtins) fetchTree head isFunction isList mapAttrs substring tail;

  # fetchTarball looks for what it is to be first, and has nothing to fetch then.
  copied = attrs: attrs // {
    outPath = fetchTarball { name = "source"; url = "file:///nowhere"; sha256 = attrs.narHash; };
  };

  root =
    let attrs = if trees ? ${locks.root} then copied trees.${locks.root} else source.sourceInfo or source;
    in if changed then removeAttrs attrs [ "rev" "shortRev" "revCount" ] else attrs;

  # Since 2.14 a flake below the top of its source is there, and knows what it is.
  recent = builtins.compareVersions builtins.nixVersion "2.14" >= 0;

  # An input is a node, or the way to it by names of inputs.
  nodeOf = input: if isList input then nodeAt locks.root input else input;
  nodeAt = node: path:
    if path == [ ] then node
    else nodeAt (nodeOf locks.nodes.${node}.inputs.${head path}) (tail path);

  nodes = mapAttrs (name: node:
    let
      parent = nodes.${nodeAt locks.root node.parent};
      sourceInfo =
        if name == locks.root then root
        else if trees ? ${name} then copied trees.${name}
        else if node ? parent && node.locked.type == "path" && substring 0 1 node.locked.path != "/" then
          parent.sourceInfo // { outPath = parent.outPath + "/${node.locked.path}"; }
        else fetchTree (removeAttrs (node.info or { } // node.locked) [ "dir" "__final" ]);
      subdir = if name == locks.root then dir else node.locked.dir or "";
      outPath = if subdir == "" then "${sourceInfo}" else "${sourceInfo}/${subdir}";
      flake = import (outPath + "/flake.nix");
      inputs = mapAttrs (_: input: nodes.${nodeOf input}) (node.inputs or { });
      outputs = flake.outputs (inputs // { self = result; });
      result = outputs // sourceInfo // (if recent then { inherit outPath; _type = "flake"; } else { })
        // { inherit inputs outputs sourceInfo; };
    in
    if node.flake or true then assert isFunction flake.outputs; result
    else if recent then sourceInfo // { inherit sourceInfo outPath; }
    else sourceInfo
  ) locks.nodes;
in
nodes.${locks.root}
