package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"nx/pkg/closure"
	"nx/pkg/keys"
	"nx/pkg/store"
	"nx/pkg/target"
)

const (
	// patience is how long nothing may move before somebody who waits is told why.
	patience = 30 * time.Second

	// maxPause is the longest time between two attempts to connect again.
	maxPause = 30 * time.Second

	// near is below which round trip a host is in the same building.
	near = 2 * time.Millisecond
)

// A delivery is one host's.
type delivery struct {
	*Courier
	log     *slog.Logger  // with the host's name
	all     *slog.Logger  // without
	target  target.Target // where it is reached
	path    store.Path
	options closure.Options
	keys    func() ([]keys.Contents, error) // what is to be staged, once it was read; nil for nothing

	waiting atomic.Bool // the host's silence is expected

	lost  time.Time     // when a connection was, zero when an object has arrived since
	pause time.Duration // before the next one is opened

	share share            // of what goes to all
	lacks closure.Progress // of a dry run
}

// deliver delivers, and goes on over a new connection when one is lost: what the
// host acknowledged is there.
func (d *delivery) deliver(ctx context.Context) error {
	prepared, stop := context.WithCancel(ctx)
	defer stop()
	d.share.of = &d.total
	defer func() { d.share.end(d.all) }()
	go d.Depot.Prepare(prepared, d.path) // while the host answers
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	for {
		err := d.over(ctx, conn)
		var lost interface{ Lost() bool }
		if !errors.As(err, &lost) || !lost.Lost() || ctx.Err() != nil {
			return err
		}
		if conn, err = d.again(ctx, err); err != nil {
			return err
		}
	}
}

// connect connects to the target, or else to the one before it.
func (d *delivery) connect(ctx context.Context) (Conn, error) {
	conn, reached, err := target.Reach(ctx, d.log, d.target, d.Dial)
	d.target = reached
	return conn, err
}

// again connects after a connection was lost, until it succeeds or no object has
// arrived for too long. It returns the error that it was about then.
func (d *delivery) again(ctx context.Context, err error) (Conn, error) {
	if d.lost.IsZero() {
		d.lost, d.pause = time.Now(), time.Second
	}
	for {
		pause := d.pause
		d.pause = min(2*pause, maxPause)
		if since := time.Since(d.lost); since+pause >= d.timeout() {
			return nil, fmt.Errorf("%w: given up after %v in which nothing arrived", err, since.Round(time.Second))
		}
		d.log.Warn("the connection is lost, and opened again: "+err.Error(), "in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		conn, failed := d.connect(ctx)
		if failed == nil {
			return conn, nil
		}
		err = failed
	}
}

func (d *delivery) timeout() time.Duration {
	if d.Timeout == 0 {
		return DefaultTimeout
	}
	return d.Timeout
}

// over delivers over a connection, which it closes.
func (d *delivery) over(ctx context.Context, conn Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The host's Nix waits for a lock without a word.
	stall := d.after(patience, func() {
		d.log.Warn(fmt.Sprintf("nothing moved for %v", patience), "hint",
			"a lock of Nix on the host may be held by a garbage collection or another copy, even one whose deployer is gone: "+
				"look for nix-store there; ClientAliveInterval in its sshd_config ends such copies")
	})
	defer stall.Stop() // after the sessions are closed: nothing moves then
	giveUp := d.after(d.timeout(), func() {
		cancel(fmt.Errorf("nothing moved for %v", d.timeout()))
	})
	defer giveUp.Stop()

	moved := func() {
		stall.Reset(patience)
		giveUp.Reset(d.timeout())
	}
	h, err := d.open(ctx, conn, d.target, d.path, d.options.Substitute, moved)
	if err != nil {
		conn.Close()
		return fmt.Errorf("copy %s: %w", d.path, err)
	}
	defer h.Close()
	defer conn.Close()

	sent, err := d.send(ctx, h)
	if err != nil {
		return &copyError{d.path, d.target.Login(), err}
	}
	if d.DryRun {
		d.lacks = sent
		return nil
	}
	if err := d.stage(ctx, conn, moved); err != nil {
		return err
	}
	root := d.path.StagedRoot()
	if !mayKeep(d.target) {
		root = "~/" + d.path.StagedHomeRoot()
	}
	d.log.Info("keeping", "root", root)
	if err := h.Keep(ctx); err != nil {
		return fmt.Errorf("keep %s by %s: %w", d.path, root, err)
	}
	d.log.Info("copied", "paths", sent.Sent, "bytes", sent.SentSize, "wire", sent.Wire)
	return nil
}

// send sends what the host lacks.
func (d *delivery) send(ctx context.Context, h *host) (closure.Progress, error) {
	if there, err := d.onlyThere(ctx, h); err != nil || there {
		return closure.Progress{}, err
	}
	options := d.options
	trip := h.conn.RoundTrip()
	options.Near = trip > 0 && trip < near
	return d.Depot.Copy(ctx, h, d.path, options, d.notify)
}

// onlyThere tells whether the host has the system and this machine has not, as when
// the host built it, or its caches have it; then it is locked there. A valid path has
// all it refers to.
func (d *delivery) onlyThere(ctx context.Context, h *host) (bool, error) {
	path := []store.Path{d.path}
	here, err := d.Depot.Source.QueryPathInfos(ctx, path)
	if err != nil || len(here) > 0 {
		return false, err
	}
	there, err := h.QueryValidPaths(ctx, path, !d.DryRun, false)()
	if err == nil && len(there) == 0 && d.options.Substitute && !d.DryRun {
		d.notify(closure.Progress{Step: closure.Substituting, Missing: len(path)})
		there, err = h.QueryValidPaths(ctx, path, true, true)()
		d.waiting.Store(false)
	}
	return len(there) > 0, err
}

// after is time.AfterFunc for what happens when nothing moves, which is not so
// while the host's silence is expected: then ssh's keepalive says that it lives.
func (d *delivery) after(wait time.Duration, f func()) (t *time.Timer) {
	ready := make(chan struct{})
	t = time.AfterFunc(wait, func() {
		<-ready
		if d.waiting.Load() {
			t.Reset(wait)
			return
		}
		f()
	})
	close(ready)
	return t
}

// notify tells how far the copy has come.
func (d *delivery) notify(p closure.Progress) {
	d.waiting.Store(p.Step == closure.Substituting)
	switch p.Step {
	case closure.Substituting:
		d.log.Info("substituting", "paths", p.Missing)
	case closure.Copying:
		message := "copying closure"
		if d.DryRun {
			message = "would copy"
		}
		d.log.Info(message, "paths", p.Paths, "missing", p.Missing, "bytes", p.MissingSize)
		if !d.DryRun && p.MissingSize > 0 {
			d.share.begin(d.all, p.MissingSize)
			d.log.Debug("sending", d.share.pace.far(d.share.all)...)
		}
	case closure.Sending:
		if d.share.gone(d.all, p.MissingSize, p.Gone) {
			d.log.Debug("sending", d.share.pace.far(d.share.all)...)
		}
	case closure.Added:
		d.lost = time.Time{}
		d.log.Debug("copied path", "path", p.Path, "sent", p.Sent, "missing", p.Missing)
	}
}
