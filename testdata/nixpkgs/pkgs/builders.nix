# The builders, as an overlay. Everything is built by /bin/sh with the tools in
# /bin and /usr/bin of the machine that builds.
{ lib, buildPlatform, hostPlatform }:
final: prev:
let
  mkDerivation = arg:
    let
      attrs = if lib.isFunction arg then lib.fix arg else arg;
      name = attrs.name or "${attrs.pname}-${attrs.version}";
      drv = derivation (removeAttrs attrs [ "meta" "passthru" ] // {
        inherit name;
        inherit (buildPlatform) system;
        builder = "/bin/sh";
        args = [ "-e" ./mk-derivation.sh ];
        PATH = "/bin:/usr/bin";
        passAsFile = lib.optional (attrs ? buildCommand) "buildCommand" ++ attrs.passAsFile or [ ];
      });
    in
    drv // attrs.passthru or { } // {
      inherit name;
      meta = attrs.meta or { };
      overrideAttrs = f: mkDerivation (attrs // (let g = f attrs; in if lib.isFunction g then f { } attrs else g));
    } // lib.optionalAttrs (attrs ? pname) { inherit (attrs) pname version; };

  stdenv = {
    inherit buildPlatform hostPlatform mkDerivation;
    targetPlatform = hostPlatform;
    inherit (hostPlatform) system isLinux isx86_64 isAarch64;
    isDarwin = false;
    shell = final.runtimeShell;
    override = _: stdenv;
  };
in
{
  inherit stdenv;
  stdenvNoCC = stdenv;
  runtimeShell = "/bin/bash";

  runCommand = name: env: buildCommand: mkDerivation (env // { inherit name buildCommand; });
  runCommandLocal = final.runCommand;
  runCommandNoCC = final.runCommand;
  runCommandCC = final.runCommand;

  writeTextFile = { name, text, executable ? false, destination ? "", checkPhase ? "", meta ? { }, ... }:
    final.runCommand name { inherit text executable destination checkPhase meta; passAsFile = [ "text" ]; } ''
      mkdir -p "$(dirname "$out$destination")"
      cp "$textPath" "$out$destination"
      if [ -n "$executable" ]; then chmod +x "$out$destination"; fi
      eval "$checkPhase"
    '';
  writeText = name: text: final.writeTextFile { inherit name text; };
  writeTextDir = path: text: final.writeTextFile { name = baseNameOf path; inherit text; destination = "/${path}"; };
  writeScript = name: text: final.writeTextFile { inherit name text; executable = true; };
  writeScriptBin = name: text: final.writeTextFile { inherit name text; executable = true; destination = "/bin/${name}"; };
  writeShellScript = name: text: final.writeScript name "#!${final.runtimeShell}\n${text}";
  writeShellScriptBin = name: text: final.writeScriptBin name "#!${final.runtimeShell}\n${text}";
  writeShellApplication = { name, text, runtimeInputs ? [ ], ... }:
    final.writeShellScriptBin name "set -euo pipefail\nexport PATH=\"${lib.makeBinPath runtimeInputs}:$PATH\"\n${text}";

  # A tree of links to everything in paths; what comes first wins.
  buildEnv = { name, paths, postBuild ? "", pathsToLink ? [ "/" ], ... }:
    final.runCommand name { inherit paths postBuild; } ''
      mkdir -p $out
      for path in $paths; do
        ( cd "$path" && find . -mindepth 1 -type d ) | while read -r dir; do mkdir -p "$out/$dir"; done
        ( cd "$path" && find . ! -type d ) | while read -r file; do
          if [ ! -e "$out/$file" ] && [ ! -L "$out/$file" ]; then ln -s "$path/''${file#./}" "$out/$file"; fi
        done
      done
      eval "$postBuild"
    '';
  symlinkJoin = args: final.buildEnv (removeAttrs args [ "buildInputs" "nativeBuildInputs" ]);
  linkFarm = name: entries:
    let list = if lib.isAttrs entries then lib.mapAttrsToList (name: path: { inherit name path; }) entries else entries;
    in final.runCommand name { } ("mkdir -p $out\n" + lib.concatMapStrings (e: ''
      mkdir -p "$(dirname "$out/${e.name}")"
      ln -s ${e.path} "$out/${e.name}"
    '') list);

  formats = lib.genAttrs [ "json" ] (_: { }: {
    type = lib.types.anything;
    generate = name: value: final.writeText name (builtins.toJSON value);
  });
}
