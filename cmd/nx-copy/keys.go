package main

import (
	"context"

	"nx/pkg/cli"
	"nx/pkg/keys"
	"nx/pkg/record"
)

// keySources are the flags that say where the contents of keys come from.
type keySources struct {
	AgeIdentity []string `type:"path" sep:"none" env:"NX_AGE_IDENTITY" placeholder:"FILE" help:"Decrypt keys and bundles of age with the identities, or the ssh private key, in FILE. Repeatable."`
	NoKeys      bool     `help:"Bring no keys: targets keep those that they have."`
}

// reader returns what reads a host's key, nil with --no-keys.
func (c *keySources) reader(p *cli.Process) (func(context.Context, *record.Record, *keys.Key) ([]byte, error), error) {
	if c.NoKeys {
		return nil, nil
	}
	identities, err := keys.ReadIdentities(c.AgeIdentity)
	if err != nil {
		return nil, err
	}
	r := &keys.Reader{Root: p.Root, Identities: identities, Log: p.Log}
	return func(ctx context.Context, host *record.Record, k *keys.Key) ([]byte, error) {
		return r.Read(ctx, host.Name(), k)
	}, nil
}
