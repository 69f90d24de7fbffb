package cmd_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// imports says which packages of nx each package may import: words and means
// stay free of adapters, stages of each other. cmd/ may import all and plugs
// them together. Providers are adapters of the provision stage; the sandbox's
// outside thing is a test host.
var imports = map[string][]string{
	"pkg/store":  {},
	"pkg/target": {},
	"pkg/record": {"pkg/store", "pkg/target"},

	"pkg/inputs":  {},
	"pkg/network": {"pkg/record", "pkg/store", "pkg/inputs"},
	"pkg/closure": {"pkg/store"},
	"pkg/keys":    {"pkg/target"},
	"pkg/state":   {},

	"pkg/nixcmd":   {"pkg/store"},
	"pkg/nixserve": {"pkg/store"},
	"pkg/remote":   {"pkg/target"},
	"pkg/trace":    {},

	"pkg/provision":                     {"pkg/record", "pkg/target", "pkg/state", "pkg/network"},
	"pkg/provision/command":             {"pkg/provision"},
	"pkg/provision/exec":                {"pkg/provision", "pkg/state", "pkg/target"},
	"pkg/provision/keypair":             {"pkg/provision"},
	"pkg/provision/digitalocean":        {"pkg/provision", "pkg/target"},
	"pkg/provision/digitalocean/dofake": {},
	"pkg/provision/none":                {"pkg/provision", "pkg/target"},
	"pkg/provision/sandbox":             {"pkg/provision", "pkg/target", "pkg/testhost"},
	"pkg/eval":                          {"pkg/record", "pkg/store", "pkg/network", "pkg/inputs"},
	"pkg/build":                         {"pkg/record", "pkg/store", "pkg/target", "pkg/closure"},
	"pkg/deliver":                       {"pkg/record", "pkg/store", "pkg/target", "pkg/closure", "pkg/keys"},
	"pkg/activate":                      {"pkg/record", "pkg/store", "pkg/target", "pkg/keys"},

	"pkg/stream": {"pkg/record"},
	"pkg/cli":    {"pkg/record", "pkg/stream"},

	"pkg/testhost": {"pkg/target", "pkg/trace"},
}

func TestImports(t *testing.T) {
	list := exec.Command("go", "list", "-json=ImportPath,Imports", "nx/...")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(p.ImportPath, "nx/")
		// A main beneath a package, such as one for use by hand, belongs to it.
		for top := path; ; {
			if _, ok := imports[top]; ok {
				seen[top] = true
				for _, i := range p.Imports {
					i, ours := strings.CutPrefix(i, "nx/")
					if ours && i != top && !slices.Contains(imports[top], i) {
						t.Errorf("%s imports %s, which the table does not allow", path, i)
					}
				}
				break
			}
			i := strings.LastIndexByte(top, '/')
			if i < 0 {
				if path != "cmd" && !strings.HasPrefix(path, "cmd/") {
					t.Errorf("%s is not in the table", path)
				}
				break
			}
			top = top[:i]
		}
	}
	for p := range imports {
		if !seen[p] {
			t.Errorf("the table has %s, which is no package", p)
		}
	}
}
