# Functions on lists.
{ lib }:
rec {
  inherit (builtins)
    all any concatLists concatMap elem elemAt filter foldl' genList groupBy head isList length map
    partition sort tail;

  singleton = x: [ x ];
  toList = x: if builtins.isList x then x else [ x ];
  forEach = xs: f: map f xs;
  foldr = op: nul: list:
    let
      len = length list;
      go = n: if n == len then nul else op (elemAt list n) (go (n + 1));
    in
    go 0;
  fold = foldr;
  foldl = op: nul: list:
    let go = n: if n == -1 then nul else op (go (n - 1)) (elemAt list n);
    in go (length list - 1);
  imap0 = f: list: genList (n: f n (elemAt list n)) (length list);
  imap1 = f: list: genList (n: f (n + 1) (elemAt list n)) (length list);
  flatten = x: if builtins.isList x then concatMap flatten x else [ x ];
  remove = x: filter (y: y != x);
  findSingle = pred: default: multiple: list:
    let found = filter pred list;
    in if found == [ ] then default else if length found > 1 then multiple else head found;
  findFirst = pred: default: list:
    let found = filter pred list;
    in if found == [ ] then default else head found;
  count = pred: list: length (filter pred list);
  optional = cond: x: if cond then [ x ] else [ ];
  optionals = cond: xs: if cond then xs else [ ];
  range = first: last: if first > last then [ ] else genList (n: first + n) (last - first + 1);
  replicate = n: x: genList (_: x) n;
  zipListsWith = f: a: b: genList (n: f (elemAt a n) (elemAt b n)) (lib.min (length a) (length b));
  zipLists = zipListsWith (fst: snd: { inherit fst snd; });
  reverseList = xs: let l = length xs; in genList (n: elemAt xs (l - n - 1)) l;
  sublist = start: count: list:
    let len = length list;
    in genList (n: elemAt list (n + start)) (lib.max 0 (lib.min count (len - start)));
  take = sublist 0;
  drop = count: list: sublist count (length list) list;
  last = list: assert lib.assertMsg (list != [ ]) "lists.last: list must not be empty!"; elemAt list (length list - 1);
  init = list: assert lib.assertMsg (list != [ ]) "lists.init: list must not be empty!"; take (length list - 1) list;
  unique = foldl' (acc: x: if elem x acc then acc else acc ++ [ x ]) [ ];
  allUnique = list: length (unique list) == length list;
  uniqueStrings = list: builtins.attrNames (lib.genAttrs list (_: null));
  intersectLists = e: filter (x: elem x e);
  subtractLists = e: filter (x: !(elem x e));
  mutuallyExclusive = a: b: length a == 0 || !(any (x: elem x a) b);
  crossLists = f: foldl (fs: args: concatMap (f: map f args) fs) [ f ];
  sortOn = f: list: map (x: elemAt x 1) (sort (a: b: head a < head b) (map (x: [ (f x) x ]) list));
  naturalSort = sort (a: b: builtins.compareVersions a b < 0);
  compareLists = cmp: a: b:
    if a == [ ] then (if b == [ ] then 0 else -1)
    else if b == [ ] then 1
    else
      let rel = cmp (head a) (head b);
      in if rel == 0 then compareLists cmp (tail a) (tail b) else rel;

  # Sorts so that before holds; what stands in a cycle is reported instead.
  toposort = before: list:
    let
      # The first of all that nothing else in rest stands before.
      search = us: visited: rest:
        let here = partition (x: before x us) visited; around = partition (x: before x us) rest; in
        if here.right != [ ] then { cycle = us; loops = here.right; inherit visited rest; }
        else if around.right == [ ] then { minimal = us; inherit visited rest; }
        else search (head around.right) ([ us ] ++ visited) (tail around.right ++ around.wrong);
      first = search (head list) [ ] (tail list);
      others = toposort before (first.visited ++ first.rest);
    in
    if length list < 2 then { result = list; }
    else if first ? cycle then { cycle = reverseList ([ first.cycle ] ++ first.visited); inherit (first) loops; }
    else if others ? result then { result = [ first.minimal ] ++ others.result; }
    else others;
}
