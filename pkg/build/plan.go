package build

import (
	"context"

	"nx/pkg/record"
	"nx/pkg/store"
)

// Plan writes into the host's record what building its system would do, as "plan",
// and does none of it. It logs each derivation and path as a detail.
func (b *Builder) Plan(ctx context.Context, r *record.Record) error {
	drv, err := r.DrvPath()
	if err != nil {
		return err
	}
	if b.onTarget(r) {
		// What it lacks it can tell only when it has the derivation.
		return r.Set("plan", map[string]bool{"onTarget": true})
	}
	options, err := b.options(r)
	if err != nil {
		return err
	}
	m, err := b.Nix(options).Missing(ctx, []store.Path{drv})
	if err != nil {
		return err
	}
	for _, p := range m.Build {
		b.Log.Debug("would build", "host", r.Name(), "drv", string(p))
	}
	for _, p := range m.Fetch {
		b.Log.Debug("would fetch", "host", r.Name(), "path", string(p))
	}
	return r.Set("plan", struct {
		Builds       int   `json:"builds"`
		Fetches      int   `json:"fetches"`
		DownloadSize int64 `json:"downloadSize"`
		UnpackedSize int64 `json:"unpackedSize"`
	}{len(m.Build), len(m.Fetch), m.DownloadSize, m.UnpackedSize})
}

// Total returns what building all of the hosts' systems would do, what several
// need counted once. Hosts without a plan are left out. Where the networks of some
// say another thing of Nix, what the first one's says counts.
func (b *Builder) Total(ctx context.Context, hosts []*record.Record) (store.Missing, error) {
	var drvs []store.Path
	var options []string
	for _, r := range hosts {
		drv, err := r.DrvPath()
		if err != nil || !r.Get("plan").Get("builds").Exists() {
			continue
		}
		if len(drvs) == 0 {
			if options, err = b.options(r); err != nil {
				return store.Missing{}, err
			}
		}
		drvs = append(drvs, drv)
	}
	if len(drvs) == 0 {
		return store.Missing{}, nil
	}
	return b.Nix(options).Missing(ctx, drvs)
}
