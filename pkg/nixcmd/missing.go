package nixcmd

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"nx/pkg/store"
)

// Missing finds out what Realise would do for drvs, without doing any of it. What
// substituters have is asked of them; what they cannot tell counts as a build. It
// is an error when a derivation to be built is for a platform that nothing here
// builds for.
func (n *Nix) Missing(ctx context.Context, drvs []store.Path) (store.Missing, error) {
	m, err := n.missing(ctx, drvs)
	if err != nil {
		return store.Missing{}, err
	}
	foreign, err := n.foreign(ctx, m.Build)
	for _, drv := range m.Build {
		if e := foreign[drv]; e != nil {
			// Of several that were wanted, the first stands for all.
			return store.Missing{}, &BuildError{Drv: drvs[0], Reason: e.Error(), hint: e.Hint()}
		}
	}
	return m, err
}

func (n *Nix) missing(ctx context.Context, drvs []store.Path) (store.Missing, error) {
	if err := n.take(ctx, drvs); err != nil {
		return store.Missing{}, fmt.Errorf("find out what is missing: %w", err)
	}
	args := []string{"--realise", "--dry-run"}
	for _, drv := range drvs {
		if _, err := outOf(drv); err != nil {
			return store.Missing{}, noDerivation(drv, err)
		}
		args = append(args, string(drv))
	}
	var said []string
	if err := n.follow(ctx, func(line string) { said = append(said, line) }, "nix-store", args...); err != nil {
		return store.Missing{}, fmt.Errorf("find out what is missing: %w: %s", err, lastLine(strings.Join(said, "\n")))
	}
	return parseMissing(said), nil
}

// fetched is the headline above the paths that Nix would fetch (src/libmain/shared.cc,
// printMissing). Nix up to 2.31 at least has MiB always.
var fetched = regexp.MustCompile(`will be fetched(?: \(([0-9.]+) ([KMGT]?)i?B download, ([0-9.]+) ([KMGT]?)i?B unpacked\))?:$`)

// parseMissing reads what nix-store --realise --dry-run says: headlines, and below
// each a path a line, indented.
func parseMissing(lines []string) (m store.Missing) {
	var list *[]store.Path
	for _, line := range lines {
		item, indented := strings.CutPrefix(line, "  ")
		if !indented {
			list = nil
			if f := fetched.FindStringSubmatch(line); f != nil {
				list = &m.Fetch
				m.DownloadSize, m.UnpackedSize = size(f[1], f[2]), size(f[3], f[4])
			} else if strings.HasSuffix(line, "will be built:") {
				list = &m.Build
			}
			continue
		}
		if p, err := store.Parse(item); err == nil && list != nil {
			*list = append(*list, p)
		}
	}
	return m
}

// size returns a number of bytes as Nix writes it; 0 when it is none.
func size(number, unit string) int64 {
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n > 1<<20 {
		return 0
	}
	return int64(n * float64(int64(1)<<(10*strings.Index("KMGT", unit)+10*len(unit))))
}

// capacity is what may build here.
type capacity struct {
	local   []string // platforms of this machine
	foreign []string // platforms of the machines that Nix may build on
	unknown bool     // the store is another machine's, and only it knows
}

// capacity reads Nix' settings.
func (n *Nix) capacity(ctx context.Context) (capacity, error) {
	// The name of the command from Nix 2.20 on, and the one before.
	out, err := n.output(ctx, "nix", "config", "show", "--json", "--extra-experimental-features", "nix-command")
	if err != nil {
		out, err = n.output(ctx, "nix", "show-config", "--json", "--extra-experimental-features", "nix-command")
	}
	if err != nil {
		return capacity{}, fmt.Errorf("read Nix' settings: %w", err)
	}
	settings := gjson.ParseBytes(out)
	value := func(name string) gjson.Result { return settings.Get(name).Get("value") }
	c := capacity{local: []string{value("system").String()}, unknown: !isLocal(value("store").String())}
	for _, p := range value("extra-platforms").Array() {
		c.local = append(c.local, p.String())
	}
	c.foreign = builderPlatforms(value("builders").String(), c.local[0], 0)
	return c, nil
}

// isLocal tells whether builds in the store run on this machine: what "auto" and
// no setting at all mean, a daemon behind a socket, a folder.
func isLocal(uri string) bool {
	uri, _, _ = strings.Cut(uri, "?")
	switch uri {
	case "", "auto", "daemon", "local":
		return true
	}
	return strings.HasPrefix(uri, "/") || strings.HasPrefix(uri, "unix://")
}

// builderPlatforms returns the platforms of a list of machines in the form of Nix'
// option builders: machines parted by newlines or semicolons, of which the second
// word is a comma list of platforms, and "@FILE" for those that a file has. A
// machine that names none is of platform own.
func builderPlatforms(builders, own string, depth int) (platforms []string) {
	for _, machine := range strings.FieldsFunc(builders, func(c rune) bool { return c == '\n' || c == ';' }) {
		machine, _, _ = strings.Cut(machine, "#")
		words := strings.Fields(machine)
		if len(words) == 0 {
			continue
		}
		if file, ok := strings.CutPrefix(words[0], "@"); ok {
			// Nix takes a file that is not there for an empty one.
			if text, err := os.ReadFile(file); err == nil && depth < 8 {
				platforms = append(platforms, builderPlatforms(string(text), own, depth+1)...)
			}
			continue
		}
		if len(words) < 2 || words[1] == "-" {
			platforms = append(platforms, own)
			continue
		}
		platforms = append(platforms, strings.Split(words[1], ",")...)
	}
	slices.Sort(platforms)
	return slices.Compact(platforms)
}

// builds tells whether something here builds for platform.
func (c *capacity) builds(platform string) bool {
	// Nix itself is the builder of "builtin".
	return c.unknown || platform == "builtin" || slices.Contains(c.local, platform) || slices.Contains(c.foreign, platform)
}

// foreign returns those of the derivations that nothing here builds, with why.
func (n *Nix) foreign(ctx context.Context, drvs []store.Path) (map[store.Path]*foreignError, error) {
	found := map[store.Path]*foreignError{}
	var can *capacity
	for _, drv := range drvs {
		d, err := readDerivation(drv)
		if err != nil {
			continue // Nix will say
		}
		if can == nil {
			c, err := n.capacity(ctx)
			if err != nil {
				return nil, err
			}
			can = &c
		}
		if !can.builds(d.platform) {
			found[drv] = &foreignError{drv, d.platform, can}
		}
	}
	return found, nil
}

// A foreignError is why a derivation is not even tried.
type foreignError struct {
	drv      store.Path
	platform string
	can      *capacity
}

func (e *foreignError) Error() string {
	machines := "there is no other machine to build on"
	if len(e.can.foreign) > 0 {
		machines = "the machines to build on are " + strings.Join(e.can.foreign, ", ")
	}
	return fmt.Sprintf("%s is for %s, this machine is %s, and %s", e.drv, e.platform, e.can.local[0], machines)
}

func (e *foreignError) Hint() string { return foreignHint(e.platform) }

// foreignHint says what to do for a platform that this machine does not build for.
func foreignHint(platform string) string {
	return fmt.Sprintf(`have this machine emulate it (boot.binfmt.emulatedSystems = [ %q ]; on NixOS), name a machine that builds for it (--builders, or /etc/nix/machines), or let the host build (--build-on-target)`, platform)
}
