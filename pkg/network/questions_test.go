package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Machines that say of themselves what needs no NixOS are listed by one process
// besides that which reads the network, however many there are; one that ends
// Nix costs one more, and its own in full.
func TestMachines(t *testing.T) {
	onEach(t, func(t *testing.T, _ string) {
		file := write(t, `builtins.listToAttrs (builtins.genList (i: { name = "m${toString (100 + i)}"; value = { pkgs, ... }: {
			boot.isContainer = true;
			deployment.tags = [ "t${toString (i - i / 3 * 3)}" ];
			environment.systemPackages = [ pkgs.hello ];
		}; }) 100) // {
			asks = { config, ... }: { boot.isContainer = true; deployment.tags = [ config.system.build.toplevel.system ]; };
			throws = { pkgs, ... }: { boot.isContainer = true; deployment.targetHost = pkgs.hello.pname; };
			wrong.deployment.tags = throw "no such tag";
			resources.sshKeyPairs.never = throw "is not asked";
		}`)
		nix := &counter{}
		n := testNetwork(file)
		n.Nix, n.Jobs = nix, 1
		machines, err := n.Machines(t.Context(), Facts{})
		if err != nil || len(machines) != 103 {
			t.Fatalf("%d machines, error %v", len(machines), err)
		}
		got := map[string]string{}
		for _, m := range machines {
			got[m.Name] = fmt.Sprint(m.Tags, string(m.Target), m.Err != nil)
		}
		const rest = `,"sudo":["sudo","-H","--"],"user":"root"}false`
		for name, want := range map[string]string{
			"m101":   `[t1]{"host":"m101"` + rest,
			"asks":   `[x86_64-linux]{"host":"asks"` + rest,
			"throws": `[]{"host":"hello"` + rest,
			"wrong":  `[]true`,
		} {
			if got[name] != want {
				t.Errorf("%s\n got %s\nwant %s", name, got[name], want)
			}
		}
		// About; lightly up to asks, and after it; in full up to wrong.
		if nix.processes != 4 {
			t.Errorf("%d processes, want 4", nix.processes)
		}
	})
}

func TestQuery(t *testing.T) {
	file := write(t, `{ port ? 80 }: {
		resources.s3Buckets.b = { };
		a = { boot.isContainer = true; services.openssh.enable = true; environment.etc.note.text = toString port; };
		b = { nodes, ... }: { boot.isContainer = true; deployment.tags = [ "b" ]; networking.extraHosts = nodes.a.config.networking.privateIPv4; };
	}`)
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		query, want string // want without a "[" or the like is in the error
	}{
		{"nodes.a.config.services.openssh.enable", "true"},
		{"builtins.attrNames nodes", `["a","b"]`},
		{"map (n: n.config.deployment) (lib.attrValues (lib.filterAttrs (_: n: n.config.deployment.tags != [ ]) { })) ++ [ 1 ]", "[1]"},
		{"nodes.b.config.networking.extraHosts", `"10.0.0.1"`},
		{"nodes.a.config.environment.etc.note.text", `"8080"`},
		{"{ nodes, lib, ... }: lib.mapAttrs (_: node: node.config.deployment.targetHost) nodes", `{"a":"a","b":"b"}`},
		{"{ f = x: x; path = ./secret; none = null; list = [ { g = x: x; } ]; }", `{"list":[{}],"none":null,"path":"` + filepath.Join(dir, "secret") + `"}`},
		{"import ./testdata/networks/broken.nix ? syntax # a file", "true"},
		{"resources.s3Buckets.b._type", `"s3Buckets"`},
		{"nodes.c", "attribute 'c' missing"},
		{"nodes.a.config.no.such.option", "attribute 'no' missing"},
		{"1 +", "syntax error"},
		{"throw ''two\nlines''", "two lines"},
		{"unknown", "undefined variable 'unknown'"},
		{"nodes.a.config.services.openssh.enable }; x = {", "syntax error"},
		{"x: y: x", "function"},
	}
	onEach(t, func(t *testing.T, _ string) {
		n := testNetwork(file)
		n.Args = []string{"--arg", "port", "8080"}
		facts := Facts{Machines: map[string]MachineFacts{"a": {PrivateIPv4: "10.0.0.1"}}}
		for _, tt := range tests {
			got, err := n.Query(t.Context(), tt.query, facts)
			if err != nil {
				if said := err.Error(); !strings.HasPrefix(said, "query "+tt.query+": ") || !strings.Contains(said, tt.want) {
					t.Errorf("query %s: error %v, want %s", tt.query, err, tt.want)
				}
				continue
			}
			if string(got) != tt.want {
				t.Errorf("query %s\n got %s\nwant %s", tt.query, got, tt.want)
			}
		}
		drv, err := n.Query(t.Context(), "nodes.a.config.system.build.toplevel", facts)
		if err != nil || !strings.HasPrefix(string(drv), `"/nix/store/`) {
			t.Errorf("a derivation is %s (%v), want its path", drv, err)
		}
	})
}
