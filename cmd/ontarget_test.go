package cmd_test

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// A host builds its own system, and the tools behind nx-build find it there. Built
// here, the record would be the same.
func TestBuildOnTarget(t *testing.T) {
	t.Parallel()
	d := deploy(t, map[string]string{"network.nix": fmt.Sprintf(`{
  network.description = "a host that builds its own system";
  web = { deployment.targetEnv = "sandbox"; boot.isContainer = true; environment.etc."built".text = "never before: %d"; };
}
`, time.Now().UnixNano())})
	for _, step := range []string{
		"nx-provision -f network.nix -o hosts.jsonl",
		"nx-eval -f network.nix -o drvs.jsonl hosts.jsonl",
		"nx-build --build-on-target -o built.jsonl drvs.jsonl",
	} {
		if r := d.sh(step); r.status != 0 || r.stdout != "" {
			t.Fatalf("%s: %+v", step, r)
		}
	}
	// Whoever collects garbage on the host between the tools takes nothing of it.
	d.on("web", "nix-store --gc")
	if r := d.sh("nx-copy -o copied.jsonl built.jsonl"); r.status != 0 {
		t.Fatalf("nx-copy: %+v", r)
	}
	d.on("web", "nix-store --gc")
	got := wantResults(t, d.sh("nx-activate switch copied.jsonl"), map[string]string{"web": "activated"})["web"]
	if path := got.Get("storePath").Str; path != "" {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is here", path)
		}
	}
	d.wantRunning(got)
	wantResults(t, d.sh("nx-build --build-on-target drvs.jsonl | nx-copy | nx-activate switch"), map[string]string{"web": "unchanged"})
	if r := d.sh("nx-build -q -o here.jsonl drvs.jsonl && cmp built.jsonl here.jsonl"); r.status != 0 {
		t.Errorf("the record is another when it is built here: %+v", r)
	}
}
