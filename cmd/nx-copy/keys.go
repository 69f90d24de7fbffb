package main

import (
	"context"
	"errors"
	"path/filepath"
	"sync"

	"nx/pkg/cli"
	"nx/pkg/eval"
	"nx/pkg/keys"
	"nx/pkg/network"
	"nx/pkg/nixcmd"
	"nx/pkg/record"
	"nx/pkg/state"
	"nx/pkg/stream"
)

// keySources are the flags that say where the contents of keys come from, beside
// those that name the network.
type keySources struct {
	Bundle      string   `name:"keys" type:"path" placeholder:"FILE" help:"Take the texts of keys that are in the network from the bundle in FILE, which nx-eval --keys-out wrote. Otherwise they are evaluated from -f."`
	AgeIdentity []string `type:"path" sep:"none" env:"NX_AGE_IDENTITY" placeholder:"FILE" help:"Decrypt age with the identities, or the ssh private key, in FILE. Repeatable."`
	NoKeys      bool     `help:"Bring no keys: targets keep those that they have."`
}

// reader returns what reads a key of a host of s, nil with --no-keys, and what to
// call in the end.
func (c *commands) reader(ctx context.Context, p *cli.Process, s *stream.Stream) (read func(context.Context, *record.Record, *keys.Key) ([]byte, error), done func(), err error) {
	done = func() {}
	if c.NoKeys {
		return nil, done, nil
	}
	if c.Bundle != "" && len(c.File) > 0 {
		return nil, done, &cli.UsageError{Err: errors.New("--keys and -f: each says what the texts of keys are"), HintMsg: "leave out one of them"}
	}
	r := &keys.Reader{Root: p.Root, Log: p.Log}
	if r.Identities, err = keys.ReadIdentities(c.AgeIdentity); err != nil {
		return nil, done, err
	}
	switch {
	case c.Bundle != "" && len(r.Identities) == 0:
		return nil, done, &cli.UsageError{Err: errors.New("--keys without an identity that decrypts it"), HintMsg: "name the file that has it with --age-identity FILE or in NX_AGE_IDENTITY"}
	case c.Bundle != "":
		// The nx-eval of the same pipe has written it by the end of its stream.
		var cut error
		ended := make(chan struct{})
		s.End = func(err error) {
			cut = err
			close(ended)
		}
		bundle := sync.OnceValues(func() (keys.Bundle, error) { return keys.ReadBundle(c.Bundle, r.Identities) })
		r.Texts = func(ctx context.Context, host string) (map[string]string, error) {
			select {
			case <-ended:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			if cut != nil {
				return nil, cut
			}
			b, err := bundle()
			if err != nil {
				return nil, err
			}
			return b.Of(host)
		}
	case len(c.File) > 0:
		remembered, err := state.Read(ctx, c.StateAt(p.Root, state.Path), state.Options{})
		if err != nil {
			return nil, done, err
		}
		if err := network.Seal(filepath.Join(p.Root, ".nx")); err != nil {
			return nil, done, err
		}
		e := &eval.Evaluator{Network: &network.Network{Files: c.File, Format: c.Format, OverrideInputs: c.OverrideInput, Args: c.NixArgs(), Name: c.Name, UUID: remembered.UUID(),
			Nix: &nixcmd.Nix{Log: p.Log}, Log: p.Log}}
		texts := e.Texts(ctx, p.Chooses)
		s.Facts, s.End = texts.Fact, texts.End
		r.Texts, done = texts.Of, texts.Close
	}
	return func(ctx context.Context, host *record.Record, k *keys.Key) ([]byte, error) {
		return r.Read(ctx, host.Name(), k)
	}, done, nil
}
