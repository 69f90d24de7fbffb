package remote

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"nx/pkg/target"
)

// need skips the test when a thing is missing, and fails it when NXTEST_REQUIRE
// says that the machine must have it.
func need(t *testing.T, word string, have bool, what string) {
	t.Helper()
	switch {
	case have:
	case slices.Contains(strings.Split(os.Getenv("NXTEST_REQUIRE"), ","), word):
		t.Fatalf("needs %s, and NXTEST_REQUIRE has %q", what, word)
	default:
		t.Skipf("SKIPPED: needs %s", what)
	}
}

func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// write makes a file that only its owner may read and returns its path.
func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A key is a key pair for a host or a user.
type key struct {
	crypto.Signer
	ssh.PublicKey
}

func newKey(t *testing.T, typ string) key {
	t.Helper()
	var k crypto.Signer
	var err error
	switch typ {
	case "ed25519":
		_, k, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		t.Fatalf("no key type %q", typ)
	}
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key{k, pub}
}

// line is the public key as in authorized_keys and target.hostKeys.
func (k key) line() string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey))) }

// private is the private key as ssh-keygen writes it, encrypted under a passphrase unless that is empty.
func (k key) private(t *testing.T, passphrase string) string {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(k.Signer, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(k.Signer, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

// An sshd is OpenSSH's server on a port of 127.0.0.1: one "sshd -i" for each
// connection, so that a single one can be stopped or killed.
type sshd struct {
	t       *testing.T
	dir     string
	port    int
	hostKey key // the first host key
	userKey key // what it lets in

	mu     sync.Mutex
	prefix []string // stands before each sshd's command line
	runs   []*exec.Cmd
}

// newSSHD starts a server with the given host keys, one of ed25519 when there is
// none. conf is added to its sshd_config.
func newSSHD(t *testing.T, conf string, hostKeys ...key) *sshd {
	t.Helper()
	path, err := exec.LookPath("/usr/sbin/sshd")
	need(t, "sshd", err == nil, "/usr/sbin/sshd")
	if os.Getuid() == 0 { // its privilege separation directory, made by the init script otherwise
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if len(hostKeys) == 0 {
		hostKeys = []key{newKey(t, "ed25519")}
	}
	s := &sshd{t: t, dir: t.TempDir(), hostKey: hostKeys[0], userKey: newKey(t, "ed25519")}
	all := "UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n" +
		"PidFile none\nPermitUserRC no\n" +
		"AuthorizedKeysFile " + write(t, filepath.Join(s.dir, "authorized_keys"), s.userKey.line()+"\n") + "\n"
	for i, k := range hostKeys {
		all += "HostKey " + write(t, filepath.Join(s.dir, fmt.Sprintf("host_key%d", i)), k.private(t, "")) + "\n"
	}
	file := write(t, filepath.Join(s.dir, "sshd_config"), all+conf)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			sock, err := conn.(*net.TCPConn).File()
			conn.Close()
			if err != nil {
				return
			}
			s.mu.Lock()
			argv := append(slices.Clone(s.prefix), path, "-i", "-e", "-f", file)
			s.mu.Unlock()
			cmd := exec.Command(argv[0], argv[1:]...)
			log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return
			}
			cmd.Stdin, cmd.Stdout, cmd.Stderr = sock, sock, log
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if cmd.Start() == nil {
				s.mu.Lock()
				s.runs = append(s.runs, cmd)
				s.mu.Unlock()
			}
			sock.Close()
			log.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
		s.signal(syscall.SIGKILL)
		for _, cmd := range s.runs {
			cmd.Wait()
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			t.Logf("sshd's log:\n%s", log)
		}
	})
	return s
}

// signal sends sig to every server process of every connection.
func (s *sshd) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cmd := range s.runs {
		syscall.Kill(-cmd.Process.Pid, sig)
	}
}

// under sets the command that runs each sshd from now on.
func (s *sshd) under(prefix ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prefix = prefix
}

// connections returns how many connections came in.
func (s *sshd) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.runs)
}

// name is the server as known_hosts files have it.
func (s *sshd) name() string { return fmt.Sprintf("[127.0.0.1]:%d", s.port) }

// target is the server with all that is needed to reach it.
func (s *sshd) target() target.Target {
	return target.Target{
		Host: "127.0.0.1", Port: s.port, User: me(s.t), HostKeys: []string{s.hostKey.line()},
		IdentityFile: write(s.t, filepath.Join(s.dir, "id"), s.userKey.private(s.t, "")),
	}
}

// dialer is one with an ssh configuration of its own: no agent and no file of
// the user's is seen.
func dialer(t *testing.T, conf string) Dialer {
	t.Helper()
	path, err := exec.LookPath("ssh")
	need(t, "ssh", err == nil, "ssh")
	t.Setenv("SSH_AUTH_SOCK", "")
	conf += "\nHost *\n UserKnownHostsFile /nonexistent\n GlobalKnownHostsFile /nonexistent\n IdentityFile /nonexistent\n"
	return Dialer{SSH: path, Config: write(t, filepath.Join(t.TempDir(), "config"), conf)}
}

// dial connects and closes at the test's end.
func dial(t *testing.T, d Dialer, to target.Target) *Conn {
	t.Helper()
	c, err := d.Dial(context.Background(), to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// sh runs a script that must succeed and returns its stdout.
func sh(t *testing.T, c *Conn, script string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status, err := c.Run(context.Background(), script, nil, &stdout, &stderr)
	if status != 0 || err != nil {
		t.Fatalf("Run(%q) = %d, %v; stderr %q", script, status, err, stderr.String())
	}
	return stdout.String()
}

// serveAgent runs an agent that holds keys and returns its socket.
func serveAgent(t *testing.T, keys ...key) string {
	t.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: k.Signer}); err != nil {
			t.Fatal(err)
		}
	}
	return listenAgent(t, func(conn net.Conn) { agent.ServeAgent(ring, conn) })
}

// listenAgent calls serve with each connection to the socket that it returns.
func listenAgent(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nx-agent") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		os.RemoveAll(dir)
	})
	return filepath.Join(dir, "s")
}

// wantError checks that err holds every one of the texts, and its hint hint.
func wantError(t *testing.T, err error, hint string, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want one with %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("got error %q\nwant one with %q", err, text)
		}
	}
	if hint == "" {
		return
	}
	if got := hintOf(err); !strings.Contains(got, hint) {
		t.Errorf("got hint %q\nwant one with %q", got, hint)
	}
}
