package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"

	"nx/pkg/keys"
	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
)

// declared are the keys that the network has for a host; known says that the record
// tells.
func declared(r *record.Record) (declared []keys.Key, known bool, err error) {
	raw := r.Get("deployment").Get("keys")
	if !raw.Exists() {
		return nil, false, nil
	}
	declared, err = keys.Parse([]byte(raw.Raw))
	return declared, true, err
}

// contents reads what is in keys of the host.
func (c *Courier) contents(ctx context.Context, r *record.Record, declared []keys.Key) ([]keys.Contents, error) {
	all := make([]keys.Contents, len(declared))
	for i := range declared {
		text, err := c.Keys(ctx, r, &declared[i])
		if err != nil {
			return nil, fmt.Errorf("read key %s: %w", declared[i].ID, err)
		}
		all[i] = keys.Contents{Key: declared[i], Text: text}
	}
	return all, nil
}

// idle calls wait, which waits for keys.
func (c *Courier) idle(ctx context.Context, wait func()) {
	if c.Idle == nil {
		wait()
		return
	}
	c.Idle(ctx, wait)
}

// A keyError is why keys did not arrive.
type keyError struct {
	err   error
	login string // who brought them
}

func (e *keyError) Error() string { return e.err.Error() }

func (e *keyError) Unwrap() error { return e.err }

// Hint returns what to try, or "".
func (e *keyError) Hint() string {
	if e.login == target.DefaultUser {
		return ""
	}
	return fmt.Sprintf("keys are installed by root, which user %q has to become: set target.sudo, such as [\"sudo\"]", e.login)
}

// asRoot returns what runs scripts on the host as root, and calls moved when anything
// moves. Where the host has nx-switch for t that does what the script would, by verb,
// for the keys that system declares.
func asRoot(conn Conn, t target.Target, moved func(), verb string, system store.Path) keys.Run {
	return func(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
		line, err := target.Quote(t.As("/bin/sh", "-c", script)...)
		if err != nil {
			return 0, err
		}
		through, err := t.Through(verb, string(system))
		if err != nil {
			return 0, err
		}
		return conn.Run(ctx, through+"exec "+line, &movingReader{stdin, moved}, &movingWriter{stdout, moved}, stderr)
	}
}

// stage brings the host's keys to where nx-activate finds them.
func (d *delivery) stage(ctx context.Context, conn Conn, moved func()) error {
	if d.keys == nil {
		return nil
	}
	d.waiting.Store(true) // for what is read here
	var contents []keys.Contents
	var err error
	d.idle(ctx, func() { contents, err = d.keys() })
	d.waiting.Store(false)
	if err != nil || len(contents) == 0 {
		return err
	}
	d.log.Info("staging keys", "keys", len(contents))
	sent, err := keys.Stage(ctx, asRoot(conn, d.target, moved, "stage", d.path), d.path.Base(), contents)
	if err != nil {
		return &keyError{err, d.target.Login()}
	}
	d.log.Debug("staged keys", "keys", len(contents), "sent", sent)
	return nil
}

// InstallKeys installs the keys that the record's deployment declares on its target,
// at once, without an activation. Keys that nx brought there before and that are not
// declared any more go with prune. It logs, with the host's name:
//
//	connecting       target
//	installing keys  keys
//	installed keys   keys, sent: those that were not there as they are
func (c *Courier) InstallKeys(ctx context.Context, r *record.Record, prune bool) error {
	declared, known, err := declared(r)
	if err == nil && !known {
		err = errors.New("the record has no deployment.keys: run nx-eval first")
	}
	if err != nil {
		return err
	}
	t, err := c.at(r)
	if err != nil {
		return err
	}
	var contents []keys.Contents
	c.idle(ctx, func() { contents, err = c.contents(ctx, r, declared) })
	if err != nil || len(contents) == 0 && !prune {
		return err
	}
	d := &delivery{Courier: c, log: c.logger().With("host", r.Name()), target: t}
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	d.log.Info("installing keys", "keys", len(contents))
	system, _ := r.StorePath() // without one there is no nx-switch
	sent, err := keys.Install(ctx, asRoot(conn, d.target, func() {}, "install", system), contents, prune)
	if err != nil {
		return &keyError{err, d.target.Login()}
	}
	d.log.Info("installed keys", "keys", len(contents), "sent", sent)
	return nil
}
