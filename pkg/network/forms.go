package network

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"nx/pkg/inputs"
)

// Formats are the forms of networks: the tools whose files are read, and flake
// for the nixosConfigurations of one. Which form a file has is seen by its
// attributes, in nix/form.nix and nix/flakes.nix.
var Formats = []string{"nixops", "morph", "colmena", "nixus", "flake"}

// flakeURL matches what names a flake by a scheme: "github:nixos/nixpkgs",
// "git+https://example.org/x", "path:/etc/nixos" (Nix manual, flake references).
var flakeURL = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)

// isFlake tells whether file names a flake: a folder with flake.nix or, where
// there is no such file, a URL. A forced format has the last word where it is of
// files alone or of flakes alone.
func isFlake(file, format string) bool {
	switch format {
	case "flake":
		return true
	case "morph", "nixus":
		return false
	}
	info, err := os.Stat(file)
	if err != nil {
		return flakeURL.MatchString(file)
	}
	if !info.IsDir() {
		return false
	}
	_, err = os.Stat(filepath.Join(file, "flake.nix"))
	return err == nil
}

// openFlake is what open does for a network that is a flake.
func (s *session) openFlake(ref string) error {
	if len(s.Files) > 1 {
		return fmt.Errorf("read network %s: a flake is a network by itself, and %d are named", ref, len(s.Files))
	}
	if strings.Contains(ref, "#") {
		return fmt.Errorf("read network %s: a flake is named without an attribute: which ones it has is seen, or said by --network-format", ref)
	}
	s.flake = ref
	folder := ref
	if _, err := os.Stat(ref); err == nil {
		// A relative one could be a name in the registry.
		var err error
		if folder, err = filepath.Abs(ref); err != nil {
			return fmt.Errorf("read network %s: %w", ref, err)
		}
		s.flake = folder
	}
	for _, named := range append([][2]string{{"", s.flake}}, s.OverrideInputs...) {
		if !fixed(named[1]) {
			s.moment = named[1] + " names no revision"
		}
	}
	folder, _, _ = strings.Cut(folder, "?")
	s.name, s.uuid = s.deployment(folder)
	return nil
}

// revision is in a reference that means the same flake for ever (Nix manual, flake
// references): "github:o/r/REV", "git+https://h/r?rev=REV", "…&narHash=…".
var revision = regexp.MustCompile(`^[a-z]+:[^/?]+/[^/?]+/[0-9a-f]{40}(?:\?|$)|[?&](?:rev|narHash)=`)

// fixed tells whether ref is a flake on this machine, whose files are seen to be
// read, or one that is never another.
func fixed(ref string) bool {
	scheme, file, _ := strings.Cut(ref, ":")
	switch {
	case filepath.IsAbs(ref), strings.HasPrefix(ref, "."), revision.MatchString(ref):
		return true
	case scheme == "path":
		return strings.HasPrefix(file, "/") && !strings.HasPrefix(file, "//")
	}
	return scheme == "git+file" && checkedOut("file:"+file)
}

// checkedOut tells whether a URL is of a folder with a git repository. A bare one
// Nix fetches as if it were elsewhere, and does not look again for an hour.
func checkedOut(repository string) bool {
	u, err := url.Parse(repository)
	if err != nil || u.Scheme != "file" || !filepath.IsAbs(u.Path) {
		return false
	}
	_, err = os.Stat(filepath.Join(u.Path, ".git"))
	return err == nil
}

// flakeArgs writes r and returns the arguments of "nix eval" that have it
// answered. As a flake is evaluated purely, what it is called with and a query's
// expression come as files too.
func (s *session) flakeArgs(r request) ([]string, error) {
	r.Facts, r.System = Facts{}, nixSystem()
	if !s.locked.byNix() {
		r.Locked = s.locked
	}
	folder, err := s.write(r)
	if err != nil {
		return nil, err
	}
	given, others := splitArgs(s.Args)
	for name, text := range map[string][]byte{"arguments.nix": nixArguments(given), "expression.nix": []byte(r.Expression)} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	input, ref := "network", s.flake
	if r.Locked != nil {
		input = "source"
		if _, copied := s.locked.Trees[s.locked.root]; copied {
			ref = pathURL(folder) // it is not looked at
		}
	}
	args := []string{"--no-eval-cache", "--no-write-lock-file", "--show-trace", pathURL(filepath.Join(s.dir, "nix")) + "#answer",
		"--override-input", input, ref, "--override-input", "request", pathURL(folder)}
	return append(args, others...), nil
}

// foreignToFlake tells whether file is not the flake's own. Before it is known
// where that is in the store, it is told from nx's expressions, which are in the
// store too, by what is beside it.
func (s *session) foreignToFlake(file string) bool {
	if s.own != "" {
		return !inputs.Below(file, s.own)
	}
	_, err := os.Stat(filepath.Join(filepath.Dir(file), "flakes.nix"))
	return !filepath.IsAbs(file) || err == nil
}

// pathURL returns the flake reference of a folder.
func pathURL(folder string) string { return "path:" + (&url.URL{Path: folder}).EscapedPath() }

// splitArgs divides arguments of nix-instantiate into those that a network is
// called with, as flag, name and value, and the others.
func splitArgs(args []string) (given [][3]string, others []string) {
	for len(args) > 0 {
		n := 1
		switch args[0] {
		case "--arg", "--argstr", "--option":
			n = 3
		case "-I":
			n = 2
		}
		n = min(n, len(args))
		if n == 3 && args[0] != "--option" {
			given = append(given, [3]string(args[:3]))
		} else {
			others = append(others, args[:n]...)
		}
		args = args[n:]
	}
	return given, others
}

// nixArguments returns the Nix expression of the set of what a network is called
// with: expressions as the user wrote them, strings quoted.
func nixArguments(given [][3]string) []byte {
	var b bytes.Buffer
	b.WriteString("{\n")
	for _, a := range given {
		value := "(" + a[2] + "\n)" // the line may end in a comment
		if a[0] == "--argstr" {
			value = nixString(a[2])
		}
		fmt.Fprintf(&b, "  %s = %s;\n", nixString(a[1]), value)
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// nixString returns the Nix expression of a string (Nix manual, string literals).
func nixString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "\r", `\r`).Replace(s) + `"`
}

// nixSystem is this machine's platform as Nix calls it.
func nixSystem() string {
	cpu := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}[runtime.GOARCH]
	if cpu == "" {
		cpu = runtime.GOARCH
	}
	return cpu + "-" + runtime.GOOS
}

// lockNotice tells whether line is one of those about inputs that are not in a
// lock file, as our own flake's are, or about the user's repository. What of that
// the user should know is said once, before there are evaluators.
func lockNotice(line string) bool {
	for _, start := range []string{unsaved, dirty, "• Added input '", "• Updated input '", "    '", "  → '", "    follows '"} {
		if strings.HasPrefix(line, start) {
			return true
		}
	}
	return false
}
