# Platforms: as much of the real elaboration as modules look at.
{ lib }:
let
  known = {
    x86_64-linux = { config = "x86_64-unknown-linux-gnu"; linuxArch = "x86_64"; kernel = "bzImage"; };
    aarch64-linux = { config = "aarch64-unknown-linux-gnu"; linuxArch = "arm64"; kernel = "Image"; };
    armv7l-linux = { config = "armv7l-unknown-linux-gnueabihf"; linuxArch = "arm"; kernel = "zImage"; };
    i686-linux = { config = "i686-unknown-linux-gnu"; linuxArch = "i386"; kernel = "bzImage"; };
  };
  fromConfig = config:
    let found = lib.filter (system: known.${system}.config == config) (lib.attrNames known);
    in if found == [ ] then throw "the stand-in nixpkgs knows no platform with config ${lib.strings.escapeNixString config}" else lib.head found;
in
rec {
  flakeExposed = lib.attrNames known;
  doubles.all = flakeExposed;
  doubles.linux = flakeExposed;

  # A system's name, or a set that has system or config, as a full platform.
  elaborate = spec:
    let
      given = if lib.isAttrs spec then spec else { system = spec; };
      system = given.system or (fromConfig given.config);
      cpu = lib.head (lib.splitString "-" system);
      facts = known.${system} or (throw "the stand-in nixpkgs knows no platform ${lib.strings.escapeNixString system}");
      isA = lib.genAttrs [ "isx86_64" "isAarch64" "isi686" "isAarch32" "isDarwin" "isWindows" ] (_: false);
    in
    isA // {
      inherit system;
      inherit (facts) config linuxArch;
      linux-kernel = { name = cpu; target = facts.kernel; };
      parsed = { cpu = { name = cpu; bits = if lib.elem cpu [ "x86_64" "aarch64" ] then 64 else 32; }; kernel.name = "linux"; };
      isLinux = true;
      isx86_64 = cpu == "x86_64";
      isi686 = cpu == "i686";
      isx86 = lib.elem cpu [ "x86_64" "i686" ];
      isAarch64 = cpu == "aarch64";
      isAarch32 = cpu == "armv7l";
      isAarch = lib.elem cpu [ "aarch64" "armv7l" ];
      is64bit = lib.elem cpu [ "x86_64" "aarch64" ];
      is32bit = lib.elem cpu [ "i686" "armv7l" ];
    } // given;
  equals = a: b: a == b;
}
