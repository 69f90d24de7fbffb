package cli

import (
	"fmt"
	"strconv"
)

// Nix are the flags that say how Nix builds. They mean what Nix' own do.
type Nix struct {
	Builders     *string `placeholder:"MACHINES" help:"The machines that Nix may build on, or @FILE (default: what the network says, else Nix' setting)."`
	MaxJobs      string  `placeholder:"N" help:"Build at most N derivations at a time on this machine; auto is one for each core, 0 none."`
	Cores        string  `placeholder:"N" help:"Let each build use N cores; 0 is all."`
	Substituters *string `placeholder:"URLS" help:"Fetch from these binary caches, parted by spaces."`
	Option       pairs   `placeholder:"NAME VALUE" help:"Set an option of Nix."`
}

// Options returns the flags that were given, as arguments for any of Nix' commands.
func (n *Nix) Options() ([]string, error) {
	for _, f := range [][2]string{{"max-jobs", n.MaxJobs}, {"cores", n.Cores}} {
		if _, err := strconv.ParseUint(f[1], 10, 31); err != nil && f[1] != "" && f != [2]string{"max-jobs", "auto"} {
			return nil, &UsageError{Err: fmt.Errorf("--%s=%s: it must be a number", f[0], f[1])}
		}
	}
	var args []string
	set := func(name, value string) { args = append(args, "--option", name, value) }
	if n.Builders != nil {
		set("builders", *n.Builders)
	}
	if n.MaxJobs != "" {
		set("max-jobs", n.MaxJobs)
	}
	if n.Cores != "" {
		set("cores", n.Cores)
	}
	if n.Substituters != nil {
		set("substituters", *n.Substituters)
	}
	for _, o := range n.Option {
		set(o[0], o[1])
	}
	return args, nil
}
