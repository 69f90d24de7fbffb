package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"nx/pkg/nixcmd"
)

// ofPkgs are ways for a machine to say which package set it has. Some contradict
// each other, and some are not known to each release: then the machine fails.
var ofPkgs = []string{
	``,
	`nixpkgs.config = { };`,
	`nixpkgs.config.allowUnfree = true;`,
	`nixpkgs.overlays = [ overlay ];`,
	`nixpkgs.overlays = [ overlay (final: prev: { hello = final.runCommand "other-${prev.hello.name}" { } ""; }) ];`,
	`nixpkgs.system = "x86_64-linux";`,
	`nixpkgs.system = "aarch64-linux";`,
	`nixpkgs.localSystem = { system = "x86_64-linux"; gcc.arch = "haswell"; };`,
	`nixpkgs.localSystem.system = "aarch64-linux";`,
	`nixpkgs.crossSystem = { config = "aarch64-unknown-linux-gnu"; system = "aarch64-linux"; };`,
	`nixpkgs.hostPlatform = "x86_64-linux";`,
	`nixpkgs.hostPlatform = "aarch64-linux";`,
	`nixpkgs.hostPlatform = { system = "x86_64-linux"; gcc.arch = "haswell"; };`,
	`nixpkgs.buildPlatform = "aarch64-linux";`,
	`nixpkgs.pkgs = own;`,
	`nixpkgs.pkgs = lib.mkDefault own;`,
	`nixpkgs.pkgs = lib.mkForce (import <nixpkgs> { system = "aarch64-linux"; config = { }; overlays = [ ]; });`,
	`_module.args.pkgs = lib.mkForce own;`,
	`disabledModules = [ "misc/nixpkgs.nix" ]; _module.args.pkgs = own; nixpkgs.config.allowUnfree = true;`,
	`disabledModules = [ (modulesPath + "/misc/nixpkgs.nix") ]; _module.args.pkgs = lib.mkForce own;`,
	`imports = [ (modulesPath + "/misc/nixpkgs/read-only.nix") ]; nixpkgs.pkgs = own;`,
	`environment.etc.nixpkgs.text = builtins.toJSON [ (builtins.isFunction pkgs.extend) options.nixpkgs.pkgs.isDefined ];`,
	`documentation.nixos.includeAllModules = true;`,
}

// machineText is a machine with some of ofPkgs that shows its packages.
func machineText(ways ...string) string {
	return `({ lib, pkgs, options, modulesPath, ... }: let
		overlay = final: prev: { hello = prev.runCommand "overlaid" { } ""; };
		own = import <nixpkgs> { config.allowUnfree = true; overlays = [ overlay ]; };
	in { imports = [
		{ boot.isContainer = true; environment.etc.shown.text = "${pkgs.hello} ${pkgs.stdenv.hostPlatform.system}"; }
		` + strings.Join(parenthesized(ways), "\n") + `
	]; })`
}

func parenthesized(ways []string) (modules []string) {
	for _, way := range ways {
		modules = append(modules, "{ "+way+" }")
	}
	return modules
}

// ownPackages evaluates a machine of a file by eval-config.nix as it is, which
// imports the machine's own packages, and returns its derivation, "" if it fails.
func ownPackages(t *testing.T, file, name string) string {
	t.Helper()
	ours, err := filepath.Abs("nix/deployment.nix")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("nix-instantiate", "--eval", "--strict", "--json", "--argstr", "name", name, "--expr", `
		{ name }:
		(import <nixpkgs/nixos/lib/eval-config.nix> { modules = [
			(import `+file+`).${name} `+ours+` { networking.hostName = (import <nixpkgs/lib>).mkOverride 900 name; }
		]; }).config.system.build.toplevel.drvPath`).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return ""
	}
	var drv string
	if err == nil {
		err = json.Unmarshal(out, &drv)
	}
	if err != nil {
		t.Fatal(err)
	}
	return drv
}

// One package set for several machines changes no derivation, nor whether there is
// one: each way alone, and random machines with several of them in one evaluation.
// With a real nixpkgs, where each takes seconds, these are six and no way has a
// machine alone, unless NXTEST_MACHINES says how many.
func TestSharedIsUnshared(t *testing.T) {
	onEach(t, func(t *testing.T, nixpkgs string) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		machines := map[string]string{}
		count, alone := 2*len(ofPkgs), true
		if text := os.Getenv("NXTEST_MACHINES"); text != "" {
			var err error
			if count, err = strconv.Atoi(text); err != nil {
				t.Fatal(err)
			}
		} else if nixpkgs == os.Getenv("NXTEST_NIXPKGS") {
			count, alone = 6, false
		}
		for i, way := range ofPkgs {
			if alone {
				machines[fmt.Sprintf("way%02d", i)] = machineText(way)
			}
		}
		for i := range count {
			var ways []string
			for range random.IntN(3) {
				ways = append(ways, ofPkgs[random.IntN(len(ofPkgs))])
			}
			machines[fmt.Sprintf("random%d", i)] = machineText(ways...)
		}
		var text strings.Builder
		for name, machine := range machines {
			fmt.Fprintf(&text, "%s = %s;\n", name, machine)
		}
		file := write(t, "{\n"+text.String()+"}\n")
		n := testNetwork(file)
		n.Jobs = 1
		got := evaluate(t, n, Facts{})
		fine := 0
		for _, name := range slices.Sorted(maps.Keys(machines)) {
			want := ownPackages(t, file, name)
			if want != "" {
				fine++
			}
			if string(got[name].DrvPath) != want {
				t.Errorf("%s is %q (%v), with packages of its own %q\n%s", name, got[name].DrvPath, got[name].Err, want, machines[name])
			}
		}
		t.Logf("%d of %d machines evaluate", fine, len(machines))
	})
}

// A counter is Nix that counts its processes and their lines with a text.
type counter struct {
	nixcmd.Nix
	text string

	mu               sync.Mutex
	processes, lines int
}

func (c *counter) Instantiate(ctx context.Context, args, env []string, line func(string, int), saw func(string, int, int)) (unseen, err error) {
	return c.count(ctx, c.Nix.Instantiate, args, env, line, saw)
}

func (c *counter) EvalFlake(ctx context.Context, args, env []string, line func(string, int), saw func(string, int, int)) (unseen, err error) {
	return c.count(ctx, c.Nix.EvalFlake, args, env, line, saw)
}

func (c *counter) count(ctx context.Context, run runner, args, env []string, line func(string, int), saw func(string, int, int)) (unseen, err error) {
	c.mu.Lock()
	c.processes++
	c.mu.Unlock()
	return run(ctx, args, env, func(l string, pid int) {
		c.mu.Lock()
		if strings.Contains(l, c.text) {
			c.lines++
		}
		c.mu.Unlock()
		line(l, pid)
	}, saw)
}

// Machines whose package sets are the same have it from one import.
func TestShared(t *testing.T) {
	tree := t.TempDir()
	if err := os.CopyFS(tree, os.DirFS(trees(t)["stand-in"])); err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(tree, "default.nix")
	if err := os.Rename(original, filepath.Join(tree, "original.nix")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(original, []byte(`args: builtins.trace "nixpkgs is imported" (import ./original.nix args)`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_PATH", "nixpkgs="+tree)
	tests := []struct {
		name     string
		machines []string
		want     int
	}{
		{"plain", []string{"", "", ""}, 1},
		{"platforms", []string{"", `nixpkgs.hostPlatform = "x86_64-linux";`, `nixpkgs.system = "aarch64-linux";`, `nixpkgs.hostPlatform = "aarch64-linux";`}, 2},
		{"overlays and configuration", []string{"", `nixpkgs.overlays = [ (_: _: { }) ];`, `nixpkgs.config.allowUnfree = true;`, "nixpkgs.config = { };"}, 3},
		{"its own", []string{"", "", `nixpkgs.pkgs = import <nixpkgs> { };`}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var text strings.Builder
			for i, machine := range tt.machines {
				fmt.Fprintf(&text, "m%d = { boot.isContainer = true; %s };\n", i, machine)
			}
			n := testNetwork(write(t, "{\n"+text.String()+"}\n"))
			nix := &counter{text: "nixpkgs is imported"}
			n.Nix, n.Jobs = nix, 1
			for name, s := range evaluate(t, n, Facts{}) {
				if s.Err != nil {
					t.Errorf("%s: %v", name, s.Err)
				}
			}
			if nix.lines != tt.want {
				t.Errorf("nixpkgs is imported %d times, want %d", nix.lines, tt.want)
			}
		})
	}
}
