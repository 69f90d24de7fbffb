package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"nx/pkg/target"
)

func hintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// A host's key is checked against what is known, in all the ways it can be known.
func TestHostKeys(t *testing.T) {
	ed, ecdsa, rsa, other := newKey(t, "ed25519"), newKey(t, "ecdsa"), newKey(t, "rsa"), newKey(t, "ed25519")
	s := newSSHD(t, "", ed, ecdsa, rsa)
	name := s.name()
	tests := []struct {
		name     string
		known    string // known_hosts
		conf     string // ssh_config
		hash     bool   // known is hashed by ssh-keygen
		hostKeys []string
		want     []string // texts of the error; none is success
		hint     string
	}{
		{name: "known", known: name + " " + ed.line()},
		{name: "known by a pattern", known: "[127.*.1]:* " + ed.line()},
		{name: "known among others", known: "a " + other.line() + "\n" + name + " " + ed.line()},
		{name: "known without the port", known: "127.0.0.1 " + ed.line()},
		{name: "changed, though known without the port", known: "127.0.0.1 " + ed.line() + "\n" + name + " " + other.line(), want: []string{"has changed"}},
		{name: "hashed", known: name + " " + ed.line() + "\na " + other.line(), hash: true},
		{name: "alias", known: "web1 " + ed.line(), conf: "HostKeyAlias web1"},
		{name: "alias counts alone", known: name + " " + ed.line(), conf: "HostKeyAlias web1", want: []string{"host key of web1 is not known"}},
		{name: "only the rsa key is known", known: name + " " + rsa.line()},
		{name: "only the ecdsa key is known", known: name + " " + ecdsa.line()},
		{name: "a line of a future ssh", known: name + " ssh-new AAAA\n@new " + name + " " + ed.line() + "\n|1|x " + ed.line() + "\n" + name + " " + ed.line()},
		{name: "unknown", known: "other " + ed.line(),
			want: []string{"connect to ", "host key of " + name + " is not known: it shows ssh-ed25519 " + ssh.FingerprintSHA256(ed)},
			hint: `set target.hostKeys to ["` + ed.line() + `"]`},
		{name: "unknown, no file", want: []string{"is not known"}},
		{name: "unknown, though checking is off", conf: "StrictHostKeyChecking no", want: []string{"is not known"}},
		{name: "negated", known: "!" + name + ",!127.0.0.1,* " + ed.line(), want: []string{"is not known"}},
		{name: "changed", known: "# a comment\n" + name + " " + other.line(),
			want: []string{"has changed: it shows ssh-ed25519 " + ssh.FingerprintSHA256(ed), "expected ssh-ed25519 " + ssh.FingerprintSHA256(other), "known_hosts:2"},
			hint: "ssh-keygen -R \"" + name + "\""},
		{name: "revoked", known: name + " " + ed.line() + "\n@revoked * " + ed.line(), want: []string{"is revoked"}},
		{name: "authority of a host without certificate", known: "@cert-authority * " + other.line(), want: []string{"is not known"}},
		{name: "pinned", hostKeys: []string{ed.line()}},
		{name: "pinned with a comment", hostKeys: []string{other.line(), ed.line() + " root@web1"}},
		{name: "pinned, the host's third key", hostKeys: []string{rsa.line()}},
		{name: "pinned wins over known", known: name + " " + other.line(), hostKeys: []string{ed.line()}},
		{name: "pinned to another", known: name + " " + ed.line(), hostKeys: []string{other.line()},
			want: []string{"is not the one in target.hostKeys", ssh.FingerprintSHA256(other)}, hint: "made anew"},
		{name: "pinned to nonsense", hostKeys: []string{"ssh-ed25519 AAAA"}, want: []string{`target.hostKeys: parse "ssh-ed25519 AAAA"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conf := tt.conf
			if tt.known != "" {
				file := write(t, filepath.Join(t.TempDir(), "known_hosts"), tt.known+"\n")
				if tt.hash {
					if out, err := exec.Command("ssh-keygen", "-H", "-f", file).CombinedOutput(); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
				}
				conf += "\nUserKnownHostsFile " + file
			}
			to := s.target()
			to.HostKeys = tt.hostKeys
			c, err := dialer(t, conf).Dial(context.Background(), to)
			if len(tt.want) > 0 {
				wantError(t, err, tt.hint, tt.want...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
	}
}

func TestPinnedKeyTypeTheHostLacks(t *testing.T) {
	s := newSSHD(t, "")
	to := s.target()
	to.HostKeys = []string{newKey(t, "ecdsa").line()}
	_, err := dialer(t, "").Dial(context.Background(), to)
	wantError(t, err, "made anew", "has no key of a type in target.hostKeys", "ecdsa-sha2-nistp256")
}

func TestHostCertificate(t *testing.T) {
	ca, host := newKey(t, "ed25519"), newKey(t, "ed25519")
	tests := []struct {
		name       string
		principals []string
		known      string
		want       string
	}{
		{name: "signed", principals: []string{"127.0.0.1"}, known: "@cert-authority * " + ca.line()},
		{name: "of another host", principals: []string{"web2"}, known: "@cert-authority * " + ca.line(), want: "certificate that does not hold"},
		{name: "by a revoked authority", principals: []string{"127.0.0.1"},
			known: "@cert-authority * " + ca.line() + "\n@revoked * " + ca.line(), want: "is revoked"},
		{name: "of a host whose bare key is known", principals: []string{"web2"},
			known: "@cert-authority * " + ca.line() + "\n* " + host.line()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			signer, err := ssh.NewSignerFromSigner(ca.Signer)
			if err != nil {
				t.Fatal(err)
			}
			cert := &ssh.Certificate{Key: host.PublicKey, CertType: ssh.HostCert, ValidPrincipals: tt.principals, ValidBefore: ssh.CertTimeInfinity}
			if err := cert.SignCert(rand.Reader, signer); err != nil {
				t.Fatal(err)
			}
			file := write(t, filepath.Join(t.TempDir(), "cert.pub"), string(ssh.MarshalAuthorizedKey(cert)))
			s := newSSHD(t, "HostCertificate "+file+"\n", host)
			to := s.target()
			to.HostKeys = nil
			known := strings.ReplaceAll(tt.known, " * ", " "+s.name()+",127.0.0.1 ")
			_, err = dialer(t, "UserKnownHostsFile "+write(t, filepath.Join(t.TempDir(), "known hosts"), known)).
				Dial(context.Background(), to)
			if tt.want != "" {
				wantError(t, err, "", tt.want)
			} else if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	s := newSSHD(t, "")
	dir := t.TempDir()
	plain := write(t, filepath.Join(dir, "plain"), s.userKey.private(t, ""))
	locked := write(t, filepath.Join(dir, "locked"), s.userKey.private(t, "secret"))
	public := write(t, filepath.Join(dir, "public.pub"), s.userKey.line())
	wrong := newKey(t, "ed25519")
	wrongFile := write(t, filepath.Join(dir, "wrong"), wrong.private(t, ""))
	tests := []struct {
		name     string
		identity string // of the target
		root     string
		conf     string
		agent    []key
		noAgent  bool
		want     []string
		hint     string
	}{
		{name: "identity file", identity: plain},
		{name: "identity file below root", identity: "plain", root: dir},
		{name: "identity file of the configuration", conf: "IdentityFile " + plain},
		{name: "identity file with tokens", conf: "IdentityFile " + dir + "/pl%%ain\nIdentityFile " + strings.Replace(plain, "/plain", "/%r-%p", 1) + "\nIdentityFile " + plain},
		{name: "agent", agent: []key{wrong, s.userKey}},
		{name: "agent's socket of the configuration", agent: []key{s.userKey}, conf: "IdentityAgent $NXTEST_AGENT", noAgent: true},
		{name: "agent that the configuration forbids", agent: []key{s.userKey}, conf: "IdentityAgent none",
			want: []string{"log in as " + me(t), "there was no key to try"}, hint: "target.identityFile"},
		{name: "encrypted file that the agent holds", identity: locked, agent: []key{s.userKey}},
		{name: "public key that the agent holds", identity: public, agent: []key{s.userKey}},
		{name: "only the identities", conf: "IdentitiesOnly yes\nIdentityFile " + wrongFile, agent: []key{s.userKey},
			want: []string{"log in as", "tried " + wrongFile + ")"}},
		{name: "encrypted file that the agent does not hold", identity: locked, agent: []key{wrong},
			want: []string{"target.identityFile: read identity " + locked + ": it is encrypted"}, hint: "ssh-add " + locked},
		{name: "encrypted file of the configuration", conf: "IdentityFile " + locked,
			want: []string{"not usable: read identity " + locked}, hint: "ssh-add " + locked},
		{name: "wrong key", identity: wrongFile, want: []string{"log in as", "tried " + wrongFile}, hint: "authorized keys"},
		{name: "missing file", identity: filepath.Join(dir, "missing"), want: []string{"target.identityFile: read identity", "no such file"}},
		{name: "file that is no key", identity: write(t, filepath.Join(dir, "junk"), "junk"), want: []string{"read identity " + filepath.Join(dir, "junk")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := dialer(t, tt.conf)
			d.Root = tt.root
			if tt.agent != nil {
				socket := serveAgent(t, tt.agent...)
				t.Setenv("NXTEST_AGENT", socket)
				if !tt.noAgent {
					t.Setenv("SSH_AUTH_SOCK", socket)
				}
			}
			to := s.target()
			to.IdentityFile = tt.identity
			c, err := d.Dial(context.Background(), to)
			if len(tt.want) > 0 {
				wantError(t, err, tt.hint, tt.want...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
	}
}

// A stuckAgent is an agent that does not come to an end with a signature.
type stuckAgent struct {
	agent.Agent
	asked func()
	until <-chan struct{}
}

func (a stuckAgent) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	a.asked()
	<-a.until
	return a.Agent.Sign(key, data)
}

// An agent that does not answer, as one that waits for its owner, holds nobody
// longer than the time limit or ctx.
func TestSilentAgent(t *testing.T) {
	s := newSSHD(t, "")
	to := s.target()
	to.IdentityFile = ""
	until := make(chan struct{})
	defer close(until)
	for _, tt := range []struct {
		name, want string
		serve      func(conn net.Conn, asked func())
	}{
		{name: "asked for its keys", want: "ask agent ", serve: func(conn net.Conn, asked func()) {
			conn.Read(make([]byte, 1))
			asked()
			<-until
		}},
		{name: "asked to sign", serve: func(conn net.Conn, asked func()) {
			ring := agent.NewKeyring()
			ring.Add(agent.AddedKey{PrivateKey: s.userKey.Signer})
			agent.ServeAgent(stuckAgent{ring, asked, until}, conn)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := dialer(t, "")
			asked := make(chan struct{}, 2) // once by each Dial
			t.Setenv("SSH_AUTH_SOCK", listenAgent(t, func(conn net.Conn) {
				tt.serve(conn, func() { asked <- struct{}{} })
			}))
			ctx, cancel := context.WithCancelCause(context.Background())
			go func() {
				<-asked
				cancel(errors.New("had enough"))
			}()
			_, err := d.Dial(ctx, to)
			wantError(t, err, "", tt.want, "had enough")

			d.Timeout = 100 * time.Millisecond
			_, err = d.Dial(context.Background(), to)
			wantError(t, err, "", "no answer within 100ms")
		})
	}
}

// What the target says wins over the configuration, field by field.
func TestConfiguration(t *testing.T) {
	s := newSSHD(t, "")
	id := s.target().IdentityFile
	full := fmt.Sprintf("Host web1\n HostName 127.0.0.1\n Port %d\n User nobody\n IdentityFile %s\n", s.port, id)
	pin := []string{s.hostKey.line()}
	for _, tt := range []struct {
		name   string
		conf   string
		target target.Target
		want   string
	}{
		{name: "host and port of the configuration", conf: full, target: target.Target{Host: "web1", User: me(t), HostKeys: pin}},
		{name: "port of the target", conf: strings.Replace(full, fmt.Sprint(s.port), "1", 1), target: target.Target{Host: "web1", Port: s.port, User: me(t), HostKeys: pin}},
		{name: "user is root unless the target says", conf: full + "HostKeyAlias none\n", target: target.Target{Host: "web1", HostKeys: []string{newKey(t, "ed25519").line()}}, want: "connect to root@127.0.0.1:"},
		{name: "configuration with an error", conf: "Prot 22", target: target.Target{Host: "web1"}, want: "Bad configuration option: prot"},
		{name: "host that is an option", target: target.Target{Host: "-oProxyCommand=true"}, want: "must not be empty or start with '-'"},
		{name: "nobody listens", target: target.Target{Host: "127.0.0.1", Port: 1}, want: "connect: connection refused"},
		{name: "descriptor passing", conf: "ProxyCommand true\nProxyUseFdpass yes", target: target.Target{Host: "web1"}, want: `proxyusefdpass "yes": not supported`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := dialer(t, tt.conf).Dial(context.Background(), tt.target)
			if tt.want != "" {
				wantError(t, err, "", tt.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		})
	}
}

// Without ssh(1) a connection needs only what the target says.
func TestWithoutSSH(t *testing.T) {
	s := newSSHD(t, "")
	t.Setenv("PATH", "/nonexistent")
	t.Setenv("SSH_AUTH_SOCK", serveAgent(t, s.userKey))
	to := s.target()
	to.IdentityFile = ""
	dial(t, Dialer{}, to)
}

func TestProxyJump(t *testing.T) {
	host, jump, jump2 := newSSHD(t, ""), newSSHD(t, ""), newSSHD(t, "")
	known := func(servers ...*sshd) string {
		var text string
		for _, s := range servers {
			text += s.name() + " " + s.hostKey.line() + "\n"
		}
		return "Host *\n UserKnownHostsFile " + write(t, filepath.Join(t.TempDir(), "known"), text) + "\n"
	}
	ids := ""
	for _, s := range []*sshd{host, jump, jump2} {
		ids += "IdentityFile " + s.target().IdentityFile + "\n"
	}
	at := func(s *sshd) string { return fmt.Sprintf("%s@127.0.0.1:%d", me(t), s.port) }
	for _, tt := range []struct {
		name string
		conf string
		jump string
		want string
	}{
		{name: "of the target", conf: known(jump), jump: at(jump)},
		{name: "of the configuration", conf: "Match originalhost localhost\n ProxyJump " + at(jump) + "\n" + known(jump)},
		{name: "chain", conf: known(jump, jump2), jump: at(jump) + "," + at(jump2)},
		{name: "own configuration of a hop",
			conf: fmt.Sprintf("Host bastion\n HostName 127.0.0.1\n Port %d\n User %s\n", jump.port, me(t)) + known(jump), jump: "bastion"},
		{name: "hop that has a hop",
			conf: fmt.Sprintf("Host bastion\n HostName 127.0.0.1\n Port %d\n ProxyJump %s\n", jump.port, at(jump2)) + known(jump, jump2), jump: "bastion"},
		{name: "none", conf: "ProxyJump 127.0.0.1:1", jump: "none"},
		{name: "hop's key is unknown", conf: known(jump2), jump: at(jump), want: "host key of " + jump.name() + " is not known"},
		{name: "hop that is down", jump: "127.0.0.1:1", want: "connection refused"},
		{name: "hosts that jump through each other", conf: "Host a\n ProxyJump b\nHost b\n ProxyJump a\n", jump: "a", want: "more than 8 hosts on the way"},
		{name: "option as a hop", jump: "a,-b", want: `invalid hostname "-b"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := jump.connections() + jump2.connections()
			to := host.target()
			to.Host = "localhost"
			to.ProxyJump = tt.jump
			c, err := dialer(t, ids+tt.conf).Dial(context.Background(), to)
			if tt.want != "" {
				wantError(t, err, "", tt.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			sh(t, c, "true")
			c.Close()
			if came := jump.connections() + jump2.connections() - before; (came == 0) != (tt.jump == "none") {
				t.Errorf("%d connections came to the jump hosts", came)
			}
		})
	}
}

func TestParseJump(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want target.Target
		err  string
	}{
		{in: "web1", want: target.Target{Host: "web1"}},
		{in: "bob@web1:2222", want: target.Target{User: "bob", Host: "web1", Port: 2222}},
		{in: "bob@ad@web1", want: target.Target{User: "bob@ad", Host: "web1"}},
		{in: "[::1]:22", want: target.Target{Host: "::1", Port: 22}},
		{in: "[::1]", want: target.Target{Host: "::1"}},
		{in: "fe80::1", want: target.Target{Host: "fe80::1"}},
		{in: "ssh://bob@web1:22/", want: target.Target{User: "bob", Host: "web1", Port: 22}},
		{in: "", err: `target.host ""`},
		{in: "@web1", err: "empty user"},
		{in: "web1:x", err: `port "x" is no port`},
		{in: "web1:70000", err: "target.port 70000"},
		{in: "web1;ls", err: "no host name"},
	} {
		got, err := parseJump(tt.in)
		if tt.err != "" {
			wantError(t, err, "", tt.err)
			continue
		}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("parseJump(%q)\n got %+v, %v\nwant %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestExpandProxy(t *testing.T) {
	h, cfg := hop{Target: target.Target{Host: "web1"}}, config{hostName: "10.0.0.1", port: 2222, user: "root"}
	for _, tt := range []struct{ in, user, want, err string }{
		{in: "nc -X 5 %h %p", want: "nc -X 5 10.0.0.1 2222"},
		{in: "%n %r 100%%", want: "web1 root 100%"},
		{in: "nc %x", err: "unknown token %x"},
		{in: "nc %", err: "ends in %"},
		{in: "nc %r", user: "$IFS", err: "a shell would not take"},
	} {
		cfg.user = first(tt.user, "root")
		got, err := expandProxy(tt.in, h, cfg)
		if tt.err != "" {
			wantError(t, err, "", tt.err)
		} else if err != nil || got != tt.want {
			t.Errorf("expandProxy(%q)\n got %q, %v\nwant %q", tt.in, got, err, tt.want)
		}
	}
}

// lines collects what a logger is told, as text.
type lines struct{ bytes.Buffer }

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// connector makes an executable that connects its stdin and stdout to a TCP port.
func connector(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return "env NXTEST_CONNECT=%h:%p " + self
}

func TestProxyCommand(t *testing.T) {
	s := newSSHD(t, "")
	pidFile := filepath.Join(t.TempDir(), "pid")
	var log lines
	d := dialer(t, "ProxyCommand sh -c 'echo $$ > "+pidFile+"; echo over the hill >&2; exec "+connector(t)+"'")
	d.Log = log.logger()
	c := dial(t, d, s.target())
	if got := sh(t, c, "echo hello"); got != "hello\n" {
		t.Errorf("got %q", got)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strings.TrimSpace(string(pid))
	if _, err := os.Stat(proc); err != nil {
		t.Fatalf("the proxy command does not run: %v", err)
	}
	c.Close()
	if _, err := os.Stat(proc); err == nil {
		t.Errorf("the proxy command still runs after Close")
	}
	// Its attribute is not "host": that is a machine's name in all events.
	if want := `msg=output proxy=127.0.0.1 line="over the hill"`; !strings.Contains(log.String(), want) {
		t.Errorf("log\n got %s\nwant %s", log.String(), want)
	}
}

func TestProxyCommandThatFails(t *testing.T) {
	_, err := dialer(t, "ProxyCommand sh -c 'exit 3'").Dial(context.Background(), target.Target{Host: "web1"})
	wantError(t, err, "", `connect to root@web1:22: proxy command "sh -c 'exit 3'": exit status 3: `)
}

// A host that accepts and says nothing ends with the time limit, or with ctx.
func TestDialSilentHost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := target.Target{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
	d := dialer(t, "")
	d.Timeout = 50 * time.Millisecond
	_, err = d.Dial(context.Background(), to)
	wantError(t, err, "", "no answer within 50ms")

	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		conn, err := l.Accept() // the first Dial's
		if err != nil {
			return
		}
		defer conn.Close()
		if conn, err = l.Accept(); err != nil {
			return
		}
		defer conn.Close()
		cancel(errors.New("had enough"))
	}()
	d.Timeout = time.Hour
	_, err = d.Dial(ctx, to)
	wantError(t, err, "", "had enough")
}
