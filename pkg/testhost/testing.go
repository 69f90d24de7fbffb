package testhost

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"nx/pkg/trace"
)

// TB is the part of testing.TB that the helpers below need; programs that use this
// package do not link the testing package.
type TB interface {
	Helper()
	Cleanup(func())
	TempDir() string
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Need skips the test unless this machine has everything that the words name; the
// test fails instead when NXTEST_REQUIRE, a comma list, has the missing word.
//
//	root      namespace hosts can be started here
//	systemd   such hosts can be started with systemd
//	trace     a program can see what another one reads (pkg/trace)
//	nix       nix-store is in PATH
//	nix-new   NXTEST_NIX_NEW names a folder with a newer Nix, as bin/nix-store
//	nixpkgs   NXTEST_NIXPKGS names a nixpkgs tree
func Need(tb TB, words ...string) {
	tb.Helper()
	for _, word := range words {
		switch missing, required := Missing(word); {
		case missing == nil:
		case required:
			tb.Fatalf("%v", missing)
		default:
			tb.Skipf("SKIPPED, needs %s: %v", word, missing)
		}
	}
}

// Missing returns why this machine lacks what a word of [Need] stands for, nil when it
// has it, and whether NXTEST_REQUIRE demands it.
func Missing(word string) (missing error, required bool) {
	required = slices.Contains(strings.Split(os.Getenv("NXTEST_REQUIRE"), ","), word)
	switch word {
	case "root":
		missing = Supported(Options{})
	case "systemd":
		missing = Supported(Options{Systemd: true})
	case "trace":
		missing = trace.Supported()
	case "nix":
		_, missing = exec.LookPath("nix-store")
	case "nix-new":
		missing = needFile("NXTEST_NIX_NEW", "bin/nix-store")
	case "nixpkgs":
		missing = needFile("NXTEST_NIXPKGS", "nixos/lib/eval-config.nix")
	default:
		return errors.New("there is no such need"), true
	}
	if missing != nil && required {
		missing = fmt.Errorf("NXTEST_REQUIRE has %s, but: %w", word, missing)
	}
	return missing, required
}

func needFile(variable, file string) error {
	dir := os.Getenv(variable)
	if dir == "" {
		return fmt.Errorf("%s is not set", variable)
	}
	if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
		return fmt.Errorf("%s: %w", variable, err)
	}
	return nil
}

// NewLab returns an empty lab for one test, which ends with it as [Reap] says. The
// test is skipped as by [Need] where no hosts can be had.
func NewLab(tb TB) *Lab {
	tb.Helper()
	Need(tb, "root")
	dir := tb.TempDir()
	lab := &Lab{Dir: filepath.Join(dir, "lab"), IdentityFile: filepath.Join(dir, "id_ed25519")}
	Reap(tb, lab)
	return lab
}

//go:embed reap.sh
var reapScript string

// Reap has the lab removed with everything in it when the test ends, whoever started
// its hosts, and also when no cleanup runs because the test's process is killed, times
// out or panics. The lab need not be there yet; its Dir must be absolute.
func Reap(tb TB, lab *Lab) {
	tb.Helper()
	cmd := exec.Command("/bin/sh", "-c", reapScript, "reap.sh", lab.Dir)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe() // never written: it ends with this process
	if err != nil {
		tb.Fatalf("reap lab: %v", err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("reap lab: %v", err)
	}
	tb.Cleanup(func() {
		if err := lab.Remove(context.Background()); err != nil {
			tb.Errorf("%v", err)
		}
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			tb.Errorf("reap lab: %v", err)
		}
	})
}

// Start starts n hosts named h1 to hn at once, in a lab of their own that ends with
// the test, see [NewLab].
func Start(tb TB, n int) []*Host {
	tb.Helper()
	lab := NewLab(tb)
	hosts, errs := make([]*Host, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			hosts[i], errs[i] = lab.Start(context.Background(), fmt.Sprintf("h%d", i+1), Options{})
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			tb.Fatalf("%v", err)
		}
	}
	return hosts
}
