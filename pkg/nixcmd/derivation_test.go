package nixcmd

import (
	"strings"
	"testing"
)

func TestParseDerivation(t *testing.T) {
	const rest = `,"/bin/sh",["-c","echo \"x\" > $out"],[("name","x"),("out","/nix/store/a-x")])`
	tests := []struct {
		name, text    string
		out, platform string
		wantErr       string
	}{
		{"needs nothing", `Derive([("out","/nix/store/a-x","","")],[],[],"x86_64-linux"` + rest, "/nix/store/a-x", "x86_64-linux", ""},
		{"needs much", `Derive([("dev","/nix/store/b-x-dev","",""),("out","/nix/store/a-x","r:sha256","00")],` +
			`[("/nix/store/c-y.drv",["bin","out"]),("/nix/store/d-z.drv",["out"])],["/nix/store/e-sh","/nix/store/f-patch"],"builtin"` + rest, "/nix/store/a-x", "builtin", ""},
		{"empty", "", "", "", `want "Derive("`},
		{"no derivation", "#!/bin/sh", "", "", `want "Derive("`},
		{"cut in the outputs", `Derive([("out","/nix/store/a-x"`, "", "", `want ","`},
		{"cut behind them", `Derive([("out","/nix/store/a-x","","")],[("/nix/store/c-y.drv",["bin"`, "", "", `want ","`},
		{"cut in a string", `Derive([("out","/nix/st`, "", "", "want a string"},
		{"an escape", `Derive([("o\"ut","/nix/store/a-x","","")],[],[],"x"`, "", "", "want a string"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := parseDerivation(tt.text)
			switch {
			case tt.wantErr == "" && (err != nil || d.outputs["out"] != tt.out || d.platform != tt.platform):
				t.Errorf("got %+v, %v, want %s for %s", d, err, tt.out, tt.platform)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)):
				t.Errorf("error %v, want %q in it", err, tt.wantErr)
			}
		})
	}
}

// FuzzParseDerivation: a derivation's text never makes the parser panic, and what
// it reads is in the text.
func FuzzParseDerivation(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDerivation(text)
		if err != nil {
			return
		}
		for name, path := range d.outputs {
			if !strings.Contains(text, `("`+name+`","`+path+`","`) {
				t.Errorf("parseDerivation(%q) has %q = %q", text, name, path)
			}
		}
		if !strings.Contains(text, `],"`+d.platform+`"`) {
			t.Errorf("parseDerivation(%q) has platform %q", text, d.platform)
		}
	})
}
