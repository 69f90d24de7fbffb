package cli

import (
	"errors"
	"path/filepath"

	"github.com/alecthomas/kong"
)

// Network are the flags that say which network a tool reads and how Nix
// evaluates it. They mean the same in each tool that has them.
type Network struct {
	File          []string `short:"f" sep:"none" placeholder:"FILE" help:"A network file, or a flake. Repeatable: later files add to earlier ones."`
	Arg           pairs    `placeholder:"NAME EXPR" help:"Pass a Nix expression to the network's function."`
	Argstr        pairs    `placeholder:"NAME TEXT" help:"Pass a string to the network's function."`
	Include       []string `short:"I" sep:"none" placeholder:"PATH" help:"Add to Nix' search path, as [NAME=]PATH."`
	Option        pairs    `placeholder:"NAME VALUE" help:"Set an option of Nix."`
	Format        string   `name:"network-format" enum:",nixops,morph,colmena,nixus,flake" default:"" placeholder:"FORMAT" help:"Which tool the files are written for: nixops, morph, colmena, nixus, or flake for a flake's nixosConfigurations (default: what they show)."`
	OverrideInput pairs    `placeholder:"INPUT FLAKE" help:"Use another flake for an input of the flake."`
	State         string   `env:"NX_STATE" placeholder:"WHERE" help:"The deployment's state, which nx-provision writes: a file, or s3://BUCKET/KEY (default: .nx/state.json below --root)."`
	Name          string   `placeholder:"NAME" help:"The deployment's name (default: the name of the folder of the first network file)."`
}

// Check refuses a command line that names no network.
func (n *Network) Check() error {
	if len(n.File) == 0 {
		return &UsageError{Err: errors.New("no network file"), HintMsg: "name it with -f FILE"}
	}
	return nil
}

// StateAt returns where the deployment's state is: as [Network.State] says, or at
// usual below --root.
func (n *Network) StateAt(root, usual string) string {
	if n.State != "" {
		return n.State
	}
	return filepath.Join(root, usual)
}

// NixArgs returns the arguments for Nix' commands.
func (n *Network) NixArgs() []string {
	var args []string
	for _, group := range []struct {
		flag  string
		pairs pairs
	}{{"--arg", n.Arg}, {"--argstr", n.Argstr}} {
		for _, p := range group.pairs {
			args = append(args, group.flag, p[0], p[1])
		}
	}
	args = append(args, n.NixOptions()...)
	for _, path := range n.Include {
		args = append(args, "-I", path)
	}
	return args
}

// NixOptions are those of the arguments that any of Nix' commands takes.
func (n *Network) NixOptions() []string {
	var args []string
	for _, p := range n.Option {
		args = append(args, "--option", p[0], p[1])
	}
	return args
}

// pairs is a flag that takes two words, as Nix' own do.
type pairs [][2]string

// Decode is called by kong.
func (p *pairs) Decode(ctx *kong.DecodeContext) error {
	var pair [2]string
	for i, what := range []string{"name", "value"} {
		if ctx.Scan.Peek().IsEOL() {
			return errors.New("it takes two words, a name and a value")
		}
		if err := ctx.Scan.PopValueInto(what, &pair[i]); err != nil {
			return err
		}
	}
	*p = append(*p, pair)
	return nil
}
