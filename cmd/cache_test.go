package cmd_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"
)

// A system goes to a binary cache, and the host fetches it from there: this side
// sends nothing, whether it has the system or not.
func TestHostThatPulls(t *testing.T) {
	t.Parallel()
	d := deploy(t, map[string]string{"network.nix": `{
  network.description = "a host that pulls";
  web = {
    deployment.targetEnv = "sandbox";
    boot.isContainer = true;
    environment.etc."pulled".text = "yes";
  };
}
`})
	for _, step := range []string{
		"nix-store --generate-binary-cache-key cache-1 secret public",
		"nx-provision -f network.nix -o hosts.jsonl",
		"nx-eval -f network.nix -o drvs.jsonl hosts.jsonl",
		"nx-build -o built.jsonl drvs.jsonl",
	} {
		if r := d.sh(step); r.status != 0 || r.stdout != "" {
			t.Fatalf("%s: %+v", step, r)
		}
	}

	// The host has the cache, and has asked it in vain before.
	gate := d.host("web").Addr.As4()
	gate[3] = 1
	listener, err := net.Listen("tcp4", net.IP(gate[:]).String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	var nars atomic.Int64
	files := http.FileServer(http.Dir(filepath.Join(d.dir, "cache")))
	cache := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			nars.Add(1)
		}
		files.ServeHTTP(w, r)
	})}}
	cache.Start()
	t.Cleanup(cache.Close)
	public, err := os.ReadFile(filepath.Join(d.dir, "public"))
	if err != nil {
		t.Fatal(err)
	}
	d.on("web", "echo 'substituters = "+cache.URL+"\ntrusted-public-keys = "+string(public)+"' >>/etc/nix/nix.conf")
	if err := os.MkdirAll(filepath.Join(d.dir, "cache"), 0o777); err != nil {
		t.Fatal(err)
	}
	d.write("cache/nix-cache-info", "StoreDir: /nix/store\n")
	built := hosts(t, d.sh("cat built.jsonl").stdout)["web"]
	path := built.Get("storePath").Str
	d.on("web", "! nix-store --realise "+path)

	// The record goes through as it came.
	r := d.sh("nx-copy --to \"file://$PWD/cache\" --sign-key secret built.jsonl")
	if got := hosts(t, r.stdout)["web"]; r.status != 0 || got.Raw != built.Raw {
		t.Fatalf("record\n got %s\nwant %s\nstatus %d, stderr:\n%s", got.Raw, built.Raw, r.status, r.stderr)
	}

	for _, tt := range []struct{ name, env string }{
		{"this machine has the system", ""},
		{"only the cache has the system", "NIX_REMOTE=$PWD/empty "},
	} {
		nars.Store(0)
		r := d.sh(tt.env + "nx-copy --substitute --log-format json -o copied.jsonl built.jsonl")
		var sent []string
		for line := range strings.Lines(r.stderr) {
			if e := gjson.Parse(line); e.Get("event").Str == "copied" {
				sent = append(sent, e.Get("paths").Raw, e.Get("bytes").Raw, e.Get("wire").Raw)
			}
		}
		if got := strings.Join(sent, " "); r.status != 0 || got != "0 0 0" {
			t.Fatalf("%s: status %d, sent paths, bytes, wire %q; stderr:\n%s", tt.name, r.status, got, r.stderr)
		}
		if got, want := nars.Load(), built.Get("closure.paths").Int(); got != want {
			t.Errorf("%s: the host fetched %d objects, want %d", tt.name, got, want)
		}
		d.on("web", "nix-store --verify --check-contents && nix-store --check-validity "+path)
		if tt.env == "" {
			d.on("web", "rm -r /nix/var/nix/gcroots/nx && nix-store --gc && ! nix-store --check-validity "+path)
		}
	}
	d.wantRunning(wantResults(t, d.sh("nx-activate switch copied.jsonl"), map[string]string{"web": "activated"})["web"])
}
