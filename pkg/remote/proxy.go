package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"nx/pkg/target"
)

// dialJump connects to the last host of the jump list; the hosts before it are
// the way there, and replace what that host's own configuration says. Each hop
// has its own configuration, identities and host key check.
func (d Dialer) dialJump(ctx context.Context, h hop, cfg config) (*Conn, error) {
	if h.left == 0 {
		return nil, fmt.Errorf("jump through %s: more than %d hosts on the way", cfg.proxyJump, maxHops)
	}
	before, last := "", cfg.proxyJump
	if i := strings.LastIndexByte(last, ','); i >= 0 {
		before, last = last[:i], last[i+1:]
	}
	t, err := parseJump(last)
	if err != nil {
		return nil, err
	}
	t.ProxyJump = before
	return d.dial(ctx, hop{Target: t, jump: true, left: h.left - 1})
}

// parseJump reads one host of a jump list: [user@]host[:port], or the same
// behind ssh:// (ssh_config(5), ProxyJump).
func parseJump(s string) (target.Target, error) {
	var t target.Target
	rest := strings.TrimSuffix(strings.TrimPrefix(s, "ssh://"), "/")
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		t.User, rest = rest[:i], rest[i+1:]
		if t.User == "" {
			return target.Target{}, fmt.Errorf("jump host %q has an empty user", s)
		}
	}
	t.Host = rest
	// A colon parts host and port, unless there are several: then it is a bare IPv6 address.
	if strings.HasPrefix(rest, "[") || strings.Count(rest, ":") == 1 {
		if host, port, err := net.SplitHostPort(rest); err == nil {
			t.Host = host
			if t.Port, err = strconv.Atoi(port); err != nil || t.Port < 1 {
				return target.Target{}, fmt.Errorf("jump host %q: port %q is no port", s, port)
			}
		}
	}
	t.Host = strings.Trim(t.Host, "[]")
	if err := t.Validate(); err != nil {
		return target.Target{}, fmt.Errorf("jump host %q: %w", s, err)
	}
	return t, nil
}

// expandProxy expands the tokens of a ProxyCommand (ssh_config(5), TOKENS).
func expandProxy(command string, h hop, cfg config) (string, error) {
	values := map[byte]string{'%': "%", 'h': cfg.hostName, 'n': h.Host, 'p': strconv.Itoa(cfg.port), 'r': cfg.user}
	var b strings.Builder
	for i := 0; i < len(command); i++ {
		if command[i] != '%' {
			b.WriteByte(command[i])
			continue
		}
		i++
		if i == len(command) {
			return "", fmt.Errorf("proxy command %q ends in %%", command)
		}
		v, ok := values[command[i]]
		if !ok {
			return "", fmt.Errorf("proxy command %q has the unknown token %%%c", command, command[i])
		}
		// The command goes to a shell, where these would be more than a word.
		if strings.ContainsAny(v, "$\\`'\"();&|<>* \t\n") {
			return "", fmt.Errorf("proxy command %q: %%%c is %q, which a shell would not take as it is", command, command[i], v)
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// proxyCommand starts the configured command, whose stdin and stdout are the
// connection. Its process group is its own, so that a Ctrl-C at the terminal
// does not cut the connection under a host that is being finished.
func (d Dialer) proxyCommand(cfg config, h hop) (net.Conn, error) {
	line, err := expandProxy(cfg.proxyCommand, h, cfg)
	if err != nil {
		return nil, err
	}
	shell := first(os.Getenv("SHELL"), "/bin/sh")
	// Not CommandContext: the command lives as long as the connection, not as Dial.
	cmd := exec.Command(shell, "-c", "exec "+line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 2 * time.Second // for grandchildren that hold stderr open
	p := &proxyConn{cmd: cmd, addr: proxyAddr(line)}
	stderr, logged := io.Pipe()
	cmd.Stderr = logged
	// Own pipes, not StdoutPipe: Wait would close that one under the reader's last bytes.
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirIn.Close(), ourOut.Close())
	}
	cmd.Stdin, cmd.Stdout, p.in, p.out = theirIn, theirOut, ourIn, ourOut
	err = cmd.Start()
	theirIn.Close()
	theirOut.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start proxy command %q: %w", line, err), ourIn.Close(), ourOut.Close())
	}
	said := make(chan struct{})
	go func() {
		defer close(said)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			d.Log.Info("output", "proxy", h.Host, "line", lines.Text())
		}
		io.Copy(io.Discard, stderr)
	}()
	p.waited = make(chan struct{})
	go func() {
		p.err = cmd.Wait()
		logged.Close()
		<-said
		close(p.waited)
	}()
	return p, nil
}

// A proxyConn is the connection that a proxy command's stdin and stdout are.
type proxyConn struct {
	cmd    *exec.Cmd
	addr   proxyAddr
	in     *os.File
	out    *os.File
	waited chan struct{} // closed when the command has ended and its stderr is logged
	err    error         // how it ended, set before waited is closed
	once   sync.Once
}

func (p *proxyConn) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *proxyConn) Write(b []byte) (int, error) { return p.out.Write(b) }

// explain puts how the command ended in front of an error that says only that it
// did, by the end of its stdout or of its stdin.
func (p *proxyConn) explain(ctx context.Context, err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	select {
	case <-p.waited:
		how := "exit status 0"
		if p.err != nil {
			how = p.err.Error()
		}
		return fmt.Errorf("proxy command %q: %s: %w", string(p.addr), how, err)
	case <-ctx.Done(): // it closed them and stays
		return err
	}
}

// Close ends the command with SIGHUP, as ssh does, and kills what stays.
func (p *proxyConn) Close() error {
	p.once.Do(func() {
		p.in.Close()
		p.out.Close()
		select {
		case <-p.waited: // it ended before, and its number may be another's now
			return
		default:
		}
		group := -p.cmd.Process.Pid
		syscall.Kill(group, syscall.SIGHUP)
		select {
		case <-p.waited:
		case <-time.After(time.Second):
			syscall.Kill(group, syscall.SIGKILL)
			<-p.waited
		}
	})
	return nil
}

func (p *proxyConn) LocalAddr() net.Addr  { return p.addr }
func (p *proxyConn) RemoteAddr() net.Addr { return p.addr }

func (p *proxyConn) SetDeadline(t time.Time) error {
	return errors.Join(p.in.SetDeadline(t), p.out.SetDeadline(t))
}
func (p *proxyConn) SetReadDeadline(t time.Time) error  { return p.in.SetReadDeadline(t) }
func (p *proxyConn) SetWriteDeadline(t time.Time) error { return p.out.SetWriteDeadline(t) }

// A proxyAddr is a proxy command as the address of a connection.
type proxyAddr string

func (proxyAddr) Network() string  { return "proxycommand" }
func (a proxyAddr) String() string { return string(a) }
