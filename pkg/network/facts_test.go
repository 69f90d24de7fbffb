package network

import (
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// shopFacts are of two machines that were made at the same place, one made
// elsewhere, and one that exists already.
var shopFacts = Facts{
	Machines: map[string]MachineFacts{
		"board": {Provider: "none", PublicIPv4: "203.0.113.4", TargetHost: "board.example.org", HostKeys: []string{"ssh-ed25519 AAAAboard"}},
		"db": {Provider: "ec2", PublicIPv4: "198.51.100.1", PrivateIPv4: "10.0.0.1", TargetHost: "198.51.100.1",
			HostKeys: []string{"ssh-ed25519 AAAAdb"}, AuthorizedKeys: []string{"ssh-ed25519 AAAAroot nx"}, StateVersion: "20.03"},
		"far": {Provider: "digitalOcean", PublicIPv4: "192.0.2.3", PrivateIPv4: "10.0.0.3", HostKeys: []string{"ssh-ed25519 AAAAfar", "ssh-rsa AAAAfar"}},
		"web": {Provider: "ec2", PublicIPv4: "198.51.100.2", PrivateIPv4: "10.0.0.2", StateVersion: "20.03"},
	},
	Resources: map[string]map[string]json.RawMessage{"elasticIPs": {"ip": json.RawMessage(`{"address":"203.0.113.9"}`)}},
}

// factsOf says all that can be said of the machines.
func factsOf(names ...string) Facts {
	facts := Facts{Machines: map[string]MachineFacts{}}
	for _, name := range names {
		facts.Machines[name] = shopFacts.Machines["db"]
	}
	return facts
}

// A machine has what NixOps 1.7 writes of it into its physical.nix, a second file
// of the network; what the network says itself goes first where it does there.
func TestFactsAreNixOps(t *testing.T) {
	logical := write(t, `{
		defaults = { boot.isContainer = true; networking.extraHosts = "192.0.2.98 scanner"; };
		board = { };
		db = { deployment.targetEnv = "ec2"; networking.extraHosts = "192.0.2.99 printer"; };
		far = { };
		web = { nodes, ... }: {
			deployment.targetEnv = "ec2";
			system.stateVersion = "20.09";
			users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAAmine" ];
			environment.etc.db.text = nodes.db.config.deployment.targetHost;
		};
	}`)
	known := `services.openssh.knownHosts = {
		db = { hostNames = [ "db-unencrypted" "db-encrypted" "db" ]; publicKey = "ssh-ed25519 AAAAdb"; };
		far = { hostNames = [ "far-unencrypted" "far-encrypted" "far" ]; publicKey = "ssh-ed25519 AAAAfar"; };
		"far 2" = { hostNames = [ "far-unencrypted" "far-encrypted" "far" ]; publicKey = "ssh-rsa AAAAfar"; };
	};`
	physical := write(t, `{
		db = { lib, ... }: {
			deployment.targetHost = "198.51.100.1";
			networking.extraHosts = "203.0.113.4 board board-unencrypted\n10.0.0.1 db db-unencrypted\n127.0.0.1 db-encrypted\n192.0.2.3 far far-unencrypted\n10.0.0.2 web web-unencrypted\n";
			networking.privateIPv4 = "10.0.0.1";
			networking.publicIPv4 = "198.51.100.1";
			system.stateVersion = lib.mkDefault "20.03";
			users.extraUsers.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 AAAAroot nx" ];
			`+known+`
		};
		web = { lib, ... }: {
			networking.extraHosts = "203.0.113.4 board board-unencrypted\n10.0.0.1 db db-unencrypted\n192.0.2.3 far far-unencrypted\n10.0.0.2 web web-unencrypted\n127.0.0.1 web-encrypted\n";
			system.stateVersion = lib.mkDefault "20.03";
			`+known+`
		};
	}`)
	everywhere(t, func(t *testing.T) {
		names := []string{"board", "db", "web"}
		got := evaluate(t, testNetwork(logical), shopFacts, names...)
		want := evaluate(t, testNetwork(logical, physical), Facts{}, names...)
		for _, name := range names {
			g, w := got[name], want[name]
			if g.Err != nil || w.Err != nil || g.DrvPath != w.DrvPath {
				t.Errorf("%s is %s (%v), written out %s (%v)", name, g.DrvPath, g.Err, w.DrvPath, w.Err)
			}
			if g.OfOthers != (name != "board") || w.OfOthers {
				t.Errorf("%s has facts of others: %v, written out %v", name, g.OfOthers, w.OfOthers)
			}
		}
	})
}

// Other forms than NixOps' have facts when they ask for them, and flakes never;
// when they do not, the records make no difference.
func TestFactsAreAskedFor(t *testing.T) {
	const hosts = `"203.0.113.4 board board-unencrypted\n10.0.0.1 db db-unencrypted\n127.0.0.1 db-encrypted\n192.0.2.3 far far-unencrypted\n10.0.0.2 web web-unencrypted\n"`
	tests := []struct {
		name, text string // ASK stands for what asks
		asks       string
		takes      bool
	}{
		{"nixops, for what exists", `{ ASK defaults = DEFAULTS; db = { }; web = { }; }`, `network.facts = true;`, true},
		{"morph", `{ network = { pkgs = import <nixpkgs> { }; ASK }; defaults = DEFAULTS; db = { }; web = { }; }`, `facts = true;`, true},
		{"morph, denied", `{ network = { pkgs = import <nixpkgs> { }; ASK }; defaults = DEFAULTS; db = { }; web = { }; }`, `facts = false;`, false},
		// Colmena itself refuses the second, unless it does not check.
		{"colmena", `{ meta = { nixpkgs = <nixpkgs>; ASK }; defaults = DEFAULTS; db = { }; web = { }; }`, `_module.check = false; facts = true;`, true},
		{"nixus", `{ config, ... }: { ASK defaults = { nixpkgs = <nixpkgs>; configuration = DEFAULTS; }; nodes.db.host = "db"; nodes.web.host = "web"; }`,
			`network.facts = true;`, true},
		// Nixus itself takes an option that the file declares.
		{"nixus, declared", `{ lib, ... }: { ASK config = { defaults = { nixpkgs = <nixpkgs>; configuration = DEFAULTS; }; nodes.db.host = "db"; nodes.web.host = "web"; }; }`,
			`options.network.facts = lib.mkOption { type = lib.types.bool; default = true; };`, true},
	}
	everywhere(t, func(t *testing.T) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				form, _, _ := strings.Cut(tt.name, ",")
				network := func(ask string) *Network {
					n := testNetwork(write(t, strings.NewReplacer("ASK", ask, "DEFAULTS", "{ boot.isContainer = true; }").Replace(tt.text)))
					n.Format = form
					return n
				}
				plain := evaluate(t, network(""), Facts{}, "db")["db"]
				if known := evaluate(t, network(""), shopFacts, "db")["db"]; form != "nixops" && known.DrvPath != plain.DrvPath || plain.Err != nil || known.Err != nil || known.OfOthers {
					t.Errorf("unasked for: %s (%v), without records %s (%v)", known.DrvPath, known.Err, plain.DrvPath, plain.Err)
				}
				n := network(tt.asks)
				if none := evaluate(t, n, Facts{}, "db")["db"]; none.Err != nil || none.DrvPath != plain.DrvPath {
					t.Errorf("asked for, without records: %s (%v), else %s", none.DrvPath, none.Err, plain.DrvPath)
				}
				got := evaluate(t, n, shopFacts, "db")["db"]
				if got.Err != nil || (got.DrvPath != plain.DrvPath) != tt.takes || got.OfOthers != tt.takes {
					t.Fatalf("%s (%v), of others %v, without facts %s", got.DrvPath, got.Err, got.OfOthers, plain.DrvPath)
				}
				if !tt.takes {
					return
				}
				value, err := n.Query(t.Context(), `with nodes.db.config; [
					networking.extraHosts networking.publicIPv4 networking.privateIPv4 system.stateVersion
					users.users.root.openssh.authorizedKeys.keys (lib.attrNames programs.ssh.knownHosts)
				]`, shopFacts)
				// Asked to say all, what is known of existing hosts is said too.
				want := `[` + hosts + `,"198.51.100.1","10.0.0.1","20.03",["ssh-ed25519 AAAAroot nx"],["board","db","far","far 2"]]`
				if form == "nixops" { // where targetEnv says that it is of another provider
					want = strings.NewReplacer("10.0.0.1 db", "198.51.100.1 db", "10.0.0.2 web", "198.51.100.2 web").Replace(want)
				}
				if err != nil || string(value) != want {
					t.Errorf("error %v\n got %s\nwant %s", err, value, want)
				}
			})
		}
	})
}

// What is needed and not known is an error that says of whom, with a hint.
func TestUnknownFacts(t *testing.T) {
	const text = `{
		defaults.boot.isContainer = true;
		resources.elasticIPs.ip = { };
		resources.sshKeyPairs.pair = { };
		resources.ec2KeyPairs.shop = { region = "eu-west-1"; key = "k"; };
		db = { };
		self = { config, ... }: { environment.etc.x.text = config.networking.privateIPv4; };
		other = { nodes, ... }: { environment.etc.x.text = "${nodes.db.config.networking.privateIPv4}:5432"; };
		machine = { resources, ... }: { environment.etc.x.text = resources.machines.db.networking.privateIPv4; };
		ip = { resources, ... }: { environment.etc.x.text = "${resources.elasticIPs.ip.address}"; };
		pair = { resources, ... }: { environment.etc.x.text = resources.sshKeyPairs.pair.publicKey; };
		asks = { nodes, resources, lib, ... }: {
			environment.etc.x.text = builtins.toJSON [
				nodes.db.options.networking.privateIPv4.isDefined
				nodes.db.config.networking.publicIPv4
				"${resources.ec2KeyPairs.shop.key}"
			];
			deployment.ec2 = { keyPair = resources.ec2KeyPairs.shop; host = resources.machines.db; addresses = [ resources.elasticIPs.ip ]; };
		};
	}`
	tests := map[string]string{ // errors; "" for none
		"self":    "networking.privateIPv4 of self is not known, at network.nix",
		"other":   "networking.privateIPv4 of db is not known, at network.nix",
		"machine": "networking.privateIPv4 of db is not known, at network.nix",
		"ip":      "resources.elasticIPs.ip.address is not known, at network.nix",
		"pair":    "resources.sshKeyPairs.pair.publicKey is not known, at network.nix",
		"asks":    "",
	}
	everywhere(t, func(t *testing.T) {
		file := write(t, text)
		t.Chdir(filepath.Dir(file))
		n := testNetwork(file)
		known := Facts{Machines: map[string]MachineFacts{"db": {PrivateIPv4: "10.0.0.1"}, "self": {PrivateIPv4: "10.0.0.2"}},
			Resources: map[string]map[string]json.RawMessage{"elasticIPs": {"ip": json.RawMessage(`{"address":"x"}`)}, "sshKeyPairs": {"pair": json.RawMessage(`{"publicKey":"x"}`)}}}
		names := slices.Sorted(maps.Keys(tests))
		all := evaluate(t, n, known, names...)
		for name, s := range evaluate(t, n, Facts{}, names...) {
			if all[name].Err != nil {
				t.Errorf("%s with facts: %v", name, all[name].Err)
			}
			want := tests[name]
			if want == "" {
				if s.Err != nil {
					t.Errorf("%s: %v", name, s.Err)
				}
				continue
			}
			var hinted interface{ Hint() string }
			if s.Err == nil || !strings.HasPrefix(s.Err.Error(), "evaluate configuration: "+want) ||
				!errors.As(s.Err, &hinted) || !strings.Contains(hinted.Hint(), "run nx-provision first") {
				t.Errorf("%s: error %v, want %q and the hint to provision", name, s.Err, want)
			}
		}

		// References need no facts: nx-provision makes what they name.
		d, err := n.Describe(t.Context(), Facts{})
		if err != nil {
			t.Fatal(err)
		}
		reference := func(typ, name string) string { return `{"resource":{"name":"` + name + `","type":"` + typ + `"}}` }
		ec2 := `"ec2":{"addresses":[` + reference("elasticIPs", "ip") + `],"host":` + reference("machines", "db") + `,"keyPair":` + reference("ec2KeyPairs", "shop") + `}`
		for _, m := range d.Machines {
			if m.Err != nil || m.Name == "asks" && !strings.Contains(string(m.Deployment), ec2) {
				t.Errorf("%s: described as %s (%v), want %s", m.Name, m.Deployment, m.Err, ec2)
			}
		}
		for _, r := range d.Resources {
			if r.Err != nil || strings.Contains(string(r.Config), "nown") {
				t.Errorf("%s.%s: described as %s (%v)", r.Type, r.Name, r.Config, r.Err)
			}
		}
		// A query shows what there is.
		if value, err := n.Query(t.Context(), "resources.elasticIPs", Facts{}); err != nil || !strings.Contains(string(value), `"_name":"ip"`) || strings.Contains(string(value), "nown") {
			t.Errorf("query: %s, error %v", value, err)
		}
	})
}
