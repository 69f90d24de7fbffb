// Package remote reaches hosts by ssh and runs POSIX sh scripts there, with
// golang.org/x/crypto/ssh. It knows the user's ssh configuration (as "ssh -G"
// tells it), identities, agents, host keys, jump hosts and proxy commands. What
// is run, and what for, is left to its callers.
//
// Field by field, what the target says wins over the user's ssh configuration,
// and that over the defaults. One field differs from ssh(1): a target that names
// no user is logged in to as [target.DefaultUser], whatever the configuration
// says, because a NixOS host is deployed as root and "ssh -G" cannot tell a
// configured user from the local one. Jump hosts are not deployed to; they get
// the user that ssh would take.
//
// Host keys are always checked, StrictHostKeyChecking or not: an unknown key is
// an error that shows the key and says how to accept it. Nothing is ever asked
// and no file of the user's is written.
package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"nx/pkg/target"
)

// Defaults for the fields of [Dialer].
const (
	DefaultTimeout       = 30 * time.Second
	DefaultAliveInterval = 5 * time.Second
	DefaultAliveCount    = 3
)

// maxHops bounds a chain of jump hosts, so that two that name each other end.
const maxHops = 8

// A Dialer opens connections. The zero value works.
type Dialer struct {
	Root string       // directory that a target's relative identityFile is relative to; "" is the working directory
	Log  *slog.Logger // nil discards

	SSH    string // ssh(1), asked for the user's configuration; "" finds it in PATH and does without when there is none
	Config string // ssh_config(5) file that replaces the user's and the system's; "" for those

	// Timeout bounds connecting, key exchange and login of one hop, with what the
	// agent takes to sign, and how long a host's login shell may take to start /bin/sh. 0 is the configuration's
	// ConnectTimeout, else DefaultTimeout.
	Timeout time.Duration

	// A peer from which nothing came for AliveInterval times AliveCount is
	// taken for dead. 0 is the configuration's ServerAliveInterval and
	// ServerAliveCountMax, else DefaultAliveInterval and DefaultAliveCount.
	AliveInterval time.Duration
	AliveCount    int
}

// A hop is one host on the way to a target, or the target itself.
type hop struct {
	target.Target
	jump bool // a host on the way: without a user it gets the one ssh would take
	left int  // how many hops the way to it may have
}

// Dial connects and logs in to t. It ends when ctx does; the connection then
// lives until Close. Errors that the user can do something about have a method
// Hint() string.
func (d Dialer) Dial(ctx context.Context, t target.Target) (*Conn, error) {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return d.dial(ctx, hop{Target: t, left: maxHops})
}

func (d Dialer) dial(ctx context.Context, h hop) (*Conn, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	h.Host = strings.Trim(h.Host, "[]")
	if !h.jump {
		h.User = h.Login()
	}
	cfg, err := d.configure(ctx, h)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", h.Host, err)
	}
	c := &Conn{
		name:          cfg.user + "@" + net.JoinHostPort(cfg.hostName, strconv.Itoa(cfg.port)),
		startTimeout:  cfg.timeout,
		aliveInterval: cfg.aliveInterval,
		aliveCount:    cfg.aliveCount,
		done:          make(chan struct{}),
	}
	d.Log.Debug("connecting", "address", c.name)
	if err := d.open(ctx, c, h, cfg); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.name, err)
	}
	d.Log.Debug("connected", "address", c.name)
	return c, nil
}

// open brings up the transport to the hop and the ssh connection over it.
func (d Dialer) open(ctx context.Context, c *Conn, h hop, cfg config) (err error) {
	if cfg.proxyJump != "" {
		if c.via, err = d.dialJump(ctx, h, cfg); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				c.via.Close()
			}
		}()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.timeout, fmt.Errorf("no answer within %v", cfg.timeout))
	defer cancel()
	raw, err := d.transport(ctx, c.via, cfg, h)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	c.raw = &countingConn{Conn: raw, ack: quickAck(raw), pace: pace(raw)}
	if err = d.handshake(ctx, c, h, cfg); err != nil {
		if p, ok := raw.(*proxyConn); ok {
			err = p.explain(ctx, err)
		}
		raw.Close()
		return err
	}
	go c.watch()
	return nil
}

// transport returns the byte stream to the hop: through the jump host, by the
// proxy command, or plain TCP.
func (d Dialer) transport(ctx context.Context, via *Conn, cfg config, h hop) (net.Conn, error) {
	addr := net.JoinHostPort(cfg.hostName, strconv.Itoa(cfg.port))
	switch {
	case via != nil:
		raw, err := via.client.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("through %s: %w", via.name, err)
		}
		return raw, nil
	case cfg.proxyCommand != "":
		return d.proxyCommand(cfg, h)
	}
	return (&net.Dialer{}).DialContext(ctx, cfg.network, addr)
}

// handshake exchanges keys, checks the host's and logs in.
func (d Dialer) handshake(ctx context.Context, c *Conn, h hop, cfg config) error {
	keys, err := d.trusted(h, cfg)
	if err != nil {
		return err
	}
	ids, err := d.identities(ctx, h, cfg)
	if err != nil {
		return err
	}
	defer ids.Close()

	var refused error // what the host key check says, free of the library's wrapping
	var tried bool    // the host's key was accepted and it asked who we are
	ccfg := &ssh.ClientConfig{
		User:              cfg.user,
		HostKeyAlgorithms: keys.algorithms(),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			refused = keys.check(key)
			return refused
		},
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			tried = true
			return ids.signers, nil
		})},
	}
	stop := context.AfterFunc(ctx, func() { c.raw.Close() })
	conn, chans, reqs, err := ssh.NewClientConn(c.raw, cfg.hostName, ccfg)
	stop()
	if err != nil && ctx.Err() != nil { // then it may be the agent's as well
		return context.Cause(ctx)
	}
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case err == nil:
		c.client = ssh.NewClient(conn, chans, reqs)
		return nil
	case refused != nil:
		return refused
	case errors.As(err, &negotiation) && keys.pinned:
		return &hostKeyError{keys: keys, reason: "has no key of a type in target.hostKeys: " + err.Error()}
	case tried:
		return &loginError{user: cfg.user, ids: ids, err: err}
	}
	return err
}
