{
  description = "A stand-in for nixpkgs, for tests";

  outputs = { self }:
    let lib = import ./lib; in
    {
      lib = lib.extend (final: prev: {
        nixosSystem = args: import ./nixos/lib/eval-config.nix ({
          lib = final;
          system = null;
          modules = args.modules ++ [
            ({ lib, ... }: { config.nixpkgs.flake.source = lib.mkDefault self.outPath; })
          ];
        } // removeAttrs args [ "modules" ]);
      });

      legacyPackages = lib.genAttrs lib.systems.flakeExposed (system: import ./. { inherit system; });

      nixosModules.notDetected = ./nixos/modules/installer/scan/not-detected.nix;
    };
}
