package remote

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// A Conn is a connection to one host. Its methods may be called at the same
// time; sshd allows ten sessions on a connection unless told otherwise.
type Conn struct {
	name          string // user@host:port, for messages
	raw           *countingConn
	client        *ssh.Client
	via           *Conn // the jump host, closed with this one; may be nil
	startTimeout  time.Duration
	aliveInterval time.Duration
	aliveCount    int

	done chan struct{} // closed when the connection has ended
	err  error         // why it did, set before done is closed
}

// RoundTrip returns the shortest time so far in which the host acknowledged what it
// was sent. It is 0 where that is not known, as behind a jump host or a proxy command.
func (c *Conn) RoundTrip() time.Duration { return roundTrip(c.raw.Conn) }

// Close ends the connection and everything that runs on it. What was started on
// the host may notice only by its closed stdin and stdout.
func (c *Conn) Close() error {
	c.client.Close() // fails only where the connection is gone already
	<-c.done
	if c.via != nil {
		return c.via.Close()
	}
	return nil
}

// watch asks the host for a sign of life whenever none came by itself, and ends
// a connection whose cable was pulled: no packet says so, and TCP alone takes
// a quarter of an hour. As for ssh's ServerAliveInterval, anything received is
// a sign of life.
func (c *Conn) watch() {
	ended := make(chan error, 1)
	go func() { ended <- c.client.Wait() }()
	ticker := time.NewTicker(c.aliveInterval)
	defer ticker.Stop()
	defer close(c.done)
	var dead error
	var asking atomic.Bool
	seen, missed := c.raw.received.Load(), 0
	for {
		select {
		case err := <-ended:
			switch {
			case dead != nil:
				c.err = dead
			case errors.Is(err, io.EOF):
				c.err = errors.New("the other side closed it")
			case errors.Is(err, net.ErrClosed):
				c.err = errors.New("it was closed here")
			default:
				c.err = err
			}
			return
		case <-ticker.C:
		}
		if now := c.raw.received.Load(); now != seen {
			seen, missed = now, 0
			continue
		}
		if missed++; missed > c.aliveCount {
			dead = fmt.Errorf("nothing came for %v", time.Duration(missed)*c.aliveInterval)
			c.raw.Close()
			continue
		}
		if asking.CompareAndSwap(false, true) {
			go func() {
				c.client.SendRequest("keepalive@openssh.com", true, nil)
				asking.Store(false)
			}()
		}
	}
}

// broken returns an error that says why the connection ended, or nil when the
// host still answers.
func (c *Conn) broken() error {
	if _, _, err := c.client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
		return nil
	}
	<-c.done
	return &lostError{c.err}
}

// A lostError says that the connection ended, not what ran over it.
type lostError struct{ err error }

func (e *lostError) Error() string { return "connection broke: " + e.err.Error() }

func (e *lostError) Unwrap() error { return e.err }

// Lost tells that another connection may do better.
func (e *lostError) Lost() bool { return true }

// A countingConn counts what is received, and acknowledges it at once. It sends no
// faster than the line takes.
type countingConn struct {
	net.Conn
	ack      func() // nil where there is nothing to do
	pace     func() // nil where there is nothing to do
	received atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	if c.pace != nil {
		c.pace()
	}
	return c.Conn.Write(p)
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	if c.ack != nil {
		c.ack()
	}
	return n, err
}
