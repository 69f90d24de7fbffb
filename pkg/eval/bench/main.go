// Bench measures nx-eval against plain nix-instantiate on the same hosts, in turn
// and in one run, and prints a table of ratios. Seconds differ from machine to
// machine; ratios carry over.
//
//	go run ./pkg/eval/bench -hosts 10
//
// <nixpkgs> is the tree that NXTEST_NIXPKGS names, else the project's stand-in.
// Both sides write their derivations, which are there already after a first run
// that is not measured, and must agree on them.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	hosts := flag.Int("hosts", 10, "how many `hosts` to evaluate")
	repeat := flag.Int("repeat", 2, "how many `times` to measure each; the best counts")
	memory := flag.String("max-memory", "", "nx-eval's --max-memory, a `size`")
	flag.Parse()
	if err := run(*hosts, *repeat, *memory); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

// A cost is what a command took.
type cost struct {
	wall, first time.Duration // first: to the first host's record
	cpu         time.Duration
	memory      int64 // bytes, of its largest process (getrusage(2), ru_maxrss)
	drvs        []string
}

type bench struct {
	dir, nx string
	env     []string
	memory  string
	repeat  int
}

func run(hosts, repeat int, memory string) error {
	dir, err := os.MkdirTemp("", "nx-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, nx: filepath.Join(dir, "nx-eval"), memory: memory, repeat: repeat}
	if out, err := exec.Command("go", "build", "-o", b.nx, "./cmd/nx-eval").CombinedOutput(); err != nil {
		return fmt.Errorf("build nx-eval: %w: %s", err, out)
	}
	tree, roles, err := nixpkgs()
	if err != nil {
		return err
	}
	for _, e := range os.Environ() {
		// Each side with its own settings of the garbage collector.
		if !strings.HasPrefix(e, "GC_") && !strings.HasPrefix(e, "NIX_PATH=") {
			b.env = append(b.env, e)
		}
	}
	b.env = append(b.env, "NIX_PATH=nixpkgs="+tree)
	if err := write(filepath.Join(dir, "network.nix"), roles, hosts); err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "many.nix"), roles, 300); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "plain.nix"), []byte(plain), 0o600); err != nil {
		return err
	}

	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	version, err := b.output("nix-instantiate", "--version")
	if err != nil {
		return err
	}
	release, err := b.output("nix-instantiate", "--eval", "--json", "--expr", "(import <nixpkgs/lib>).version")
	if err != nil {
		return err
	}
	fmt.Printf("%d hosts, nixpkgs %s, %s, load %s\n", hosts, strings.TrimSpace(release), strings.TrimSpace(version), strings.Join(strings.Fields(string(load))[:3], " "))

	// Unmeasured, so that all derivations are there.
	if _, err := b.evaluate(); err != nil {
		return err
	}
	var nx, again, uncached, together, inTurn, alone, list, on cost
	for range repeat {
		for _, m := range []struct {
			best *cost
			f    func() (cost, error)
		}{
			{&nx, b.evaluate},
			{&again, func() (cost, error) { return b.nxEval("--all") }},
			{&uncached, func() (cost, error) { return b.nxEval("--all", "--no-cache") }},
			{&together, func() (cost, error) { return b.instantiate("plain.nix") }},
			{&inTurn, func() (cost, error) { return b.inTurn(hosts) }},
			{&alone, func() (cost, error) { return b.instantiate("plain.nix", "-A", name(0)) }},
			{&list, func() (cost, error) { return b.run(b.nx, "list", "--no-cache", "-q", "-f", "many.nix", "--json") }},
			{&on, func() (cost, error) {
				return b.run(b.nx, "list", "--no-cache", "-q", "-f", "many.nix", "--json", "--on", "@role0")
			}},
		} {
			c, err := m.f()
			if err != nil {
				return err
			}
			if m.best.wall == 0 || c.wall < m.best.wall {
				*m.best = c
			}
		}
	}
	for _, other := range []cost{again, uncached, together, inTurn} {
		if !slices.Equal(nx.drvs, other.drvs) {
			return fmt.Errorf("compare derivations: nx-eval has %q, and there are %q", nx.drvs, other.drvs)
		}
	}

	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\tWALL s\tCPU s\tLARGEST PROCESS MB\tNX-EVAL AGAINST IT")
	row := func(what string, c cost, ratio string) {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%d\t%s\n", what, c.wall.Seconds(), c.cpu.Seconds(), c.memory>>20, ratio)
	}
	against := func(c cost) string {
		return fmt.Sprintf("%.2f of the time, %.2f of the CPU", nx.wall.Seconds()/c.wall.Seconds(), nx.cpu.Seconds()/c.cpu.Seconds())
	}
	row("nx-eval --all", nx, "")
	row("the same, --no-cache", uncached, against(uncached))
	row("the same, nothing changed", again, fmt.Sprintf("takes %.3f of the time, %.3f of the CPU", again.wall.Seconds()/nx.wall.Seconds(), again.cpu.Seconds()/nx.cpu.Seconds()))
	row("one nix-instantiate for all", together, against(together))
	row("one nix-instantiate a host, in turn", inTurn, against(inTurn))
	row("one host alone", alone, fmt.Sprintf("first record after %.2f of the time, %.2f s", nx.first.Seconds()/alone.wall.Seconds(), nx.first.Seconds()))
	row("nx-eval list, 300 hosts", list, "")
	row("the same, --on @tag", on, "")
	return w.Flush()
}

// nixpkgs returns the tree and the roles that its machines have.
func nixpkgs() (tree, roles string, err error) {
	if real := os.Getenv("NXTEST_NIXPKGS"); real != "" {
		tree, err = filepath.EvalSymlinks(real)
		return tree, realRoles, err
	}
	tree, err = filepath.Abs("testdata/nixpkgs")
	return tree, standInRoles, err
}

// write makes a network of machines that take the roles in turn.
func write(file, roles string, hosts int) error {
	var text strings.Builder
	fmt.Fprintf(&text, "let roles = %s; in {\n", roles)
	for i := range hosts {
		fmt.Fprintf(&text, "%s = { imports = [ (builtins.elemAt roles %d) ]; deployment.tags = [ \"role%d\" ]; environment.etc.number.text = \"%d\"; };\n", name(i), i%4, i%4, i)
	}
	text.WriteString("}\n")
	return os.WriteFile(file, []byte(text.String()), 0o600)
}

func name(i int) string { return fmt.Sprintf("m%03d", i) }

// plain evaluates the same machines without nx. Each has packages of its own, as
// NixOS evaluates one, and as NixOps and morph do.
const plain = `
	let
		network = import ./network.nix;
		lib = import <nixpkgs/lib>;
		deployment.options.deployment.tags = lib.mkOption { type = lib.types.listOf lib.types.str; };
	in builtins.mapAttrs (name: machine: (import <nixpkgs/nixos/lib/eval-config.nix> {
		modules = [ machine deployment { networking.hostName = lib.mkOverride 900 name; } ];
	}).config.system.build.toplevel) network`

// Four roles over what every machine has, of modules that 20.09 and 26.11 have.
const realRoles = `let common = { lib, ... }: {
		boot.loader.grub.device = "/dev/sda";
		fileSystems."/" = { device = "/dev/sda1"; fsType = "ext4"; };
		services.openssh.enable = true;
		users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA admin" ]; };
		networking.firewall.allowedTCPPorts = [ 22 80 443 9100 ];
		services.prometheus.exporters.node.enable = true;
	}; in [
		{ imports = [ common ]; services.nginx = { enable = true; virtualHosts = builtins.listToAttrs (builtins.genList (i: {
			name = "site${toString i}.example.org"; value.locations."/".root = "/var/www/${toString i}"; }) 10); }; }
		{ imports = [ common ]; services.postgresql.enable = true; }
		({ pkgs, ... }: { imports = [ common ]; systemd.services.worker = {
			wantedBy = [ "multi-user.target" ]; serviceConfig.ExecStart = "${pkgs.python3}/bin/python3 -m http.server"; startAt = "daily"; }; })
		{ imports = [ common ]; services.prometheus.enable = true; }
	]`

const standInRoles = `let common = {
		boot.isContainer = true;
		services.openssh.enable = true;
		users.users.admin = { isNormalUser = true; extraGroups = [ "wheel" ]; openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAA admin" ]; };
	}; in [
		{ imports = [ common ]; networking.firewall.allowedTCPPorts = [ 80 ]; }
		({ pkgs, ... }: { imports = [ common ]; environment.systemPackages = [ pkgs.hello ]; })
		({ pkgs, ... }: { imports = [ common ]; systemd.services.worker = { wantedBy = [ "multi-user.target" ]; script = "${pkgs.hello}/bin/hello"; }; })
		{ imports = [ common ]; environment.etc.more.text = "more"; }
	]`

// evaluate is nx-eval with nothing remembered.
func (b *bench) evaluate() (cost, error) {
	if err := os.RemoveAll(filepath.Join(b.dir, ".nx/eval")); err != nil {
		return cost{}, err
	}
	return b.nxEval("--all")
}

func (b *bench) nxEval(args ...string) (cost, error) {
	args = append(args, "-q", "-f", "network.nix")
	if b.memory != "" {
		args = append(args, "--max-memory", b.memory)
	}
	return b.run(b.nx, args...)
}

func (b *bench) instantiate(args ...string) (cost, error) { return b.run("nix-instantiate", args...) }

// inTurn is what a loop in shell does.
func (b *bench) inTurn(hosts int) (all cost, err error) {
	for i := range hosts {
		c, err := b.instantiate("plain.nix", "-A", name(i))
		if err != nil {
			return all, err
		}
		all.wall += c.wall
		all.cpu += c.cpu
		all.memory = max(all.memory, c.memory)
		all.drvs = append(all.drvs, c.drvs...)
	}
	slices.Sort(all.drvs)
	return all, nil
}

func (b *bench) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = b.dir, b.env
	return cmd
}

func (b *bench) output(program string, args ...string) (string, error) {
	out, err := b.command(program, args...).Output()
	return string(out), err
}

// run measures one command and collects the derivations that it prints.
func (b *bench) run(program string, args ...string) (cost, error) {
	cmd := b.command(program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return cost{}, err
	}
	var c cost
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return c, err
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var record struct{ Kind, DrvPath string }
		if strings.HasPrefix(lines.Text(), "/nix/store/") {
			record.DrvPath = lines.Text()
		} else if err := json.Unmarshal(lines.Bytes(), &record); err != nil {
			return c, fmt.Errorf("%s printed %q: %w", program, lines.Text(), err)
		}
		if record.Kind == "host" && c.first == 0 {
			c.first = time.Since(begin)
		}
		if record.DrvPath != "" {
			c.drvs = append(c.drvs, record.DrvPath)
		}
	}
	if err := cmd.Wait(); err != nil {
		return c, fmt.Errorf("%s: %w: %s", program, err, stderr.String())
	}
	c.wall = time.Since(begin)
	c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.memory = usage.Maxrss << 10
	}
	slices.Sort(c.drvs)
	return c, nil
}
