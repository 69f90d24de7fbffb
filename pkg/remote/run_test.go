package remote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"nx/pkg/target"
)

func TestRun(t *testing.T) {
	s := newSSHD(t, "")
	c := dial(t, dialer(t, ""), s.target())
	for _, tt := range []struct {
		name           string
		script, stdin  string
		stdout, stderr string
		status         int
	}{
		{name: "nothing"},
		{name: "output", script: "echo out; echo err >&2", stdout: "out\n", stderr: "err\n"},
		{name: "status", script: "echo out; exit 17", stdout: "out\n", status: 17},
		{name: "status of the last command", script: "true\nfalse\n", status: 1},
		{name: "status 255", script: "exit 255", status: 255},
		{name: "missing command", script: "nx-no-such-command 2> /dev/null", status: 127},
		{name: "signal", script: "kill -9 $$", status: 128 + 9},
		{name: "signal by another number", script: "kill -HUP $$", status: 128 + 1},
		{name: "stdin", script: "cat; echo .", stdin: "a\n\nb", stdout: "a\n\nb.\n"},
		{name: "first line of stdin", script: "read -r l; printf '%s|' \"$l\"; cat", stdin: "one\ntwo\n", stdout: "one|two\n"},
		{name: "end of no stdin", script: "cat; echo end", stdout: "end\n"},
		{name: "blank lines", script: "echo a\n\n\n\necho 'x\n\n y'\n\n\n", stdout: "a\nx\n\n y\n"},
		{name: "here document", script: "cat <<E\n.dot\n\n  $((1+1)) \\\\ \nE\n", stdout: ".dot\n\n  2 \\ \n"},
		{name: "line that goes on", script: "echo a \\\n  b", stdout: "a b\n"},
		{name: "no newline at the end", script: "printf 'x'", stdout: "x"},
		{name: "bytes", script: "printf '\\000\\377\\036nx\\n'; printf '\xff\xfe'", stdout: "\x00\xff\x1enx\n\xff\xfe"},
		{name: "positional parameters", script: "set -- 'a b' c\necho $# \"$1\"", stdout: "2 a b\n"},
		{name: "function and heredoc in a loop", script: "f() {\n\n\tfor x in 1 2; do\n\n\t\tcat <<E\n\n$x\nE\n\tdone\n}\nf", stdout: "\n1\n\n2\n"},
		{name: "no terminal", script: "[ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo none", stdout: "none\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			var stdin io.Reader
			if tt.stdin != "" {
				stdin = strings.NewReader(tt.stdin)
			}
			status, err := c.Run(context.Background(), tt.script, stdin, &stdout, &stderr)
			if err != nil || status != tt.status || stdout.String() != tt.stdout || stderr.String() != tt.stderr {
				t.Errorf("Run(%q)\n got %d, %v, stdout %q, stderr %q\nwant %d, stdout %q, stderr %q", tt.script,
					status, err, stdout.String(), stderr.String(), tt.status, tt.stdout, tt.stderr)
			}
			if status, err := c.Run(context.Background(), tt.script, nil, nil, nil); tt.stdin == "" && (err != nil || status != tt.status) {
				t.Errorf("Run(%q) without writers\n got %d, %v\nwant %d", tt.script, status, err, tt.status)
			}
		})
	}
	if _, err := c.Run(context.Background(), "a\x00b", nil, nil, nil); err == nil {
		t.Error("a script with a NUL byte was run")
	}
}

// The script reaches /bin/sh whole, and stdin after it, whatever shell the user
// logs in with and whatever shell /bin/sh is.
func TestLoginShells(t *testing.T) {
	need(t, "root", os.Getuid() == 0, "root, to bind another /etc/passwd for sshd")
	script := "\n# it's a \"script\" with $ `x` \\ ! ~ % ^ {a,b}\nset -- \"it's\" '!$`\\'\n\nprintf '%s|' \"$@\"\nread -r l\necho \"$l\"\ncat\necho err >&2\nexit 9\n"
	big := script + strings.Repeat("# it's long, and \"quoted\"\n\n", 4000) + "exit 10"
	for _, sh := range []string{"dash", "bash", "busybox", "ksh"} {
		for _, login := range []string{"dash", "bash", "zsh", "fish", "tcsh", "ksh"} {
			t.Run(sh+" for "+login, func(t *testing.T) {
				shPath, err := exec.LookPath(sh)
				need(t, "shells", err == nil, sh)
				loginPath, err := exec.LookPath(login)
				need(t, "shells", err == nil, login)
				s := newSSHD(t, "")
				if login == "dash" { // /bin/sh is it, and another stands there in a moment
					data, err := os.ReadFile(loginPath)
					if err != nil {
						t.Fatal(err)
					}
					loginPath = write(t, filepath.Join(s.dir, "dash"), string(data))
					if err := os.Chmod(loginPath, 0o700); err != nil {
						t.Fatal(err)
					}
				}
				home := t.TempDir()
				passwd := write(t, filepath.Join(s.dir, "passwd"), fmt.Sprintf(
					"root:x:0:0::%s:%s\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n", home, loginPath))
				// What people have in such files must not reach the caller.
				for _, rc := range []string{".bashrc", ".zshenv", ".cshrc", ".config/fish/config.fish"} {
					write(t, filepath.Join(home, rc), "echo welcome\n")
				}
				bind := fmt.Sprintf(`mount --bind %s /etc/passwd && mount --bind %s "$(readlink -f /bin/sh)" && exec "$@"`, passwd, shPath)
				s.under("unshare", "-m", "--propagation", "private", "bash", "-c", bind, "-")
				to := s.target()
				to.User = "root"
				c := dial(t, dialer(t, ""), to)
				for text, want := range map[string]int{script: 9, big: 9, "exit 3": 3} {
					var stdout, stderr bytes.Buffer
					status, err := c.Run(context.Background(), text, strings.NewReader("line\nrest"), &stdout, &stderr)
					wantOut, wantErr := "it's|!$`\\|line\nrest", "err\n"
					if want == 3 {
						wantOut, wantErr = "", ""
					}
					if err != nil || status != want || stdout.String() != wantOut || !strings.HasSuffix(stderr.String(), wantErr) {
						t.Errorf("got %d, %v, stdout %q, stderr %q\nwant %d, stdout %q, stderr %q",
							status, err, stdout.String(), stderr.String(), want, wantOut, wantErr)
					}
				}
			})
		}
	}
}

// A shell that does not run the script is an error, not the script's status.
func TestNoShell(t *testing.T) {
	s := newSSHD(t, "ForceCommand echo This account is closed.; exit 1\n")
	c := dial(t, dialer(t, ""), s.target())
	_, err := c.Run(context.Background(), "exit 0", nil, nil, nil)
	wantError(t, err, "", "run script on ", "the login shell ended with status 1: This account is closed.")

	s = newSSHD(t, "ForceCommand exec sleep 1000\n")
	d := dialer(t, "")
	c = dial(t, d, s.target())
	c.startTimeout = 20 * time.Millisecond
	_, err = c.Run(context.Background(), "exit 0", nil, nil, nil)
	wantError(t, err, "", "the login shell did not within 20ms")
}

// A script of which only a part arrived is not run.
func TestCutScript(t *testing.T) {
	head, err := encode("touch ran\n\necho it ran\n")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for n := range len(head) {
		cmd := exec.Command("/bin/sh", "-c", shell)
		cmd.Dir = dir
		cmd.Stdin = bytes.NewReader(head[:n])
		out, _ := cmd.Output()
		if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil || len(out) > 0 {
			t.Fatalf("the script was run after %d of %d bytes: %q", n, len(head), head[:n])
		}
	}
}

func TestRunLargeStreams(t *testing.T) {
	s := newSSHD(t, "")
	c := dial(t, dialer(t, ""), s.target())
	const size = 32 << 20
	in, out := sha256.New(), sha256.New()
	random := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), in)
	var stderr bytes.Buffer
	status, err := c.Run(context.Background(), "cat; echo done >&2", random, out, &stderr)
	if status != 0 || err != nil || stderr.String() != "done\n" || !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Errorf("got %d, %v, stderr %q, in %x, out %x", status, err, stderr.String(), in.Sum(nil), out.Sum(nil))
	}
}

func TestRunManyAtOnce(t *testing.T) {
	s := newSSHD(t, "")
	c := dial(t, dialer(t, ""), s.target())
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			var stdout bytes.Buffer
			want := strings.Repeat(fmt.Sprint(i), 100000)
			status, err := c.Run(context.Background(), fmt.Sprintf("cat; exit %d", i), strings.NewReader(want), &stdout, nil)
			if status != i || err != nil || stdout.String() != want {
				t.Errorf("session %d: got %d, %v, %d bytes", i, status, err, stdout.Len())
			}
		})
	}
	all.Wait()
	if n := s.connections(); n != 1 {
		t.Errorf("got %d connections, want 1", n)
	}
}

// A script that leaves its stdin alone ends all the same, though the reader waits.
func TestRunLeavesStdin(t *testing.T) {
	s := newSSHD(t, "")
	c := dial(t, dialer(t, ""), s.target())
	r, w := io.Pipe()
	defer w.Close()
	if status, err := c.Run(context.Background(), "exit 4", r, nil, nil); status != 4 || err != nil {
		t.Errorf("got %d, %v, want 4", status, err)
	}
	if status, err := c.Run(context.Background(), "exit 5", rand.NewChaCha8([32]byte{}), nil, nil); status != 5 || err != nil {
		t.Errorf("with endless stdin: got %d, %v, want 5", status, err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestRunGivesUp(t *testing.T) {
	s := newSSHD(t, "")
	c := dial(t, dialer(t, ""), s.target())
	got := filepath.Join(t.TempDir(), "got")
	_, err := c.Run(context.Background(), "cat > "+got+".part; mv "+got+".part "+got,
		io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("the reader broke"))), nil, nil)
	wantError(t, err, "", "read its stdin: the reader broke")
	_, err = c.Run(context.Background(), "yes", nil, failingWriter{}, nil)
	wantError(t, err, "", "write its output: disk full")
	sh(t, c, "exit 0") // the connection still serves
}

// When ctx ends, Run does too, and the script notices at its next write.
func TestRunCanceled(t *testing.T) {
	s := newSSHD(t, "")
	c := dial(t, dialer(t, ""), s.target())
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	go func() {
		io.ReadFull(r, make([]byte, len("ready\n")))
		cancel()
		io.Copy(io.Discard, r)
	}()
	_, err := c.Run(ctx, "trap '' PIPE TERM; while echo ready; do :; done 2> /dev/null; echo told > "+fifo, nil, w, nil)
	w.Close()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if text, err := os.ReadFile(fifo); string(text) != "told\n" {
		t.Errorf("the script's trap wrote %q, %v", text, err)
	}
	if _, err := c.Run(ctx, "exit 0", nil, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// When ctx ends, Run waits for a Write that comes to its end, so that what was
// written can be read, and not for one that blocks.
func TestRunCanceledInWrite(t *testing.T) {
	s := newSSHD(t, "")
	c := dial(t, dialer(t, ""), s.target())
	for _, script := range []string{"yes", "yes >&2"} {
		ctx, cancel := context.WithCancel(context.Background())
		written := 0
		w := writerFunc(func(p []byte) (int, error) {
			cancel()
			for range 100 {
				runtime.Gosched()
			}
			written += len(p)
			return len(p), nil
		})
		if _, err := c.Run(ctx, script, nil, w, w); !errors.Is(err, context.Canceled) || written == 0 {
			t.Errorf("got %v, %d bytes, want %v", err, written, context.Canceled)
		}

		ctx, cancel = context.WithCancel(context.Background())
		release := make(chan struct{})
		w = func(p []byte) (int, error) {
			cancel()
			<-release
			return len(p), nil
		}
		if _, err := c.Run(ctx, script, nil, w, w); !errors.Is(err, context.Canceled) {
			t.Errorf("with a writer that blocks: got %v, want %v", err, context.Canceled)
		}
		close(release)
	}
	sh(t, c, "exit 0") // the connection still serves
}

// runUntil runs a script that prints a line and then stays; at that line f is called.
func runUntil(c *Conn, script string, f func()) error {
	r, w := io.Pipe()
	go func() {
		io.ReadFull(r, make([]byte, len("ready\n")))
		f()
		io.Copy(io.Discard, r)
	}()
	_, err := c.Run(context.Background(), script, nil, w, nil)
	w.Close()
	return err
}

func TestConnectionLost(t *testing.T) {
	const script = "echo ready; exec sleep 1000"
	t.Run("server killed", func(t *testing.T) {
		s := newSSHD(t, "")
		c := dial(t, dialer(t, ""), s.target())
		err := runUntil(c, script, func() { s.signal(syscall.SIGKILL) })
		wantError(t, err, "", "run script on "+me(t)+"@127.0.0.1:", "connection broke: ")
		_, err = c.Run(context.Background(), "exit 0", nil, nil, nil)
		wantError(t, err, "", "connection broke: ")
		c.Close()
	})
	t.Run("server silent", func(t *testing.T) { // as behind a pulled cable
		s := newSSHD(t, "")
		d := dialer(t, "ServerAliveInterval 3600")
		d.AliveInterval, d.AliveCount = 50*time.Millisecond, 3
		c := dial(t, d, s.target())
		err := runUntil(c, script, func() { s.signal(syscall.SIGSTOP) })
		wantError(t, err, "", "connection broke: nothing came for 200ms")
	})
	t.Run("closed here", func(t *testing.T) {
		s := newSSHD(t, "")
		c := dial(t, dialer(t, ""), s.target())
		err := runUntil(c, script, func() { c.Close() })
		wantError(t, err, "", "connection broke: it was closed here")
		c.Close() // again
	})
	t.Run("jump host killed", func(t *testing.T) {
		s, jump := newSSHD(t, ""), newSSHD(t, "")
		d := dialer(t, fmt.Sprintf("Host bastion\n HostName 127.0.0.1\n Port %d\n User %s\n IdentityFile %s\n UserKnownHostsFile %s\n", jump.port, me(t),
			jump.target().IdentityFile, write(t, filepath.Join(t.TempDir(), "known"), jump.name()+" "+jump.hostKey.line())))
		to := s.target()
		to.ProxyJump = "bastion"
		c := dial(t, d, to)
		err := runUntil(c, script, func() { jump.signal(syscall.SIGKILL) })
		wantError(t, err, "", "connection broke: ")
	})
	t.Run("proxy command killed", func(t *testing.T) {
		s := newSSHD(t, "")
		pid := filepath.Join(t.TempDir(), "pid")
		c := dial(t, dialer(t, "ProxyCommand sh -c 'echo $$ > "+pid+"; exec "+connector(t)+"'"), s.target())
		err := runUntil(c, script, func() {
			if out, err := exec.Command("sh", "-c", "kill -9 $(cat "+pid+")").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		wantError(t, err, "", "connection broke: ")
	})
}

// One session too many is an error of its own; the others go on.
func TestTooManySessions(t *testing.T) {
	s := newSSHD(t, "MaxSessions 1\n")
	c := dial(t, dialer(t, ""), s.target())
	r, w := io.Pipe()
	go func() {
		if _, err := w.Write([]byte("go\n")); err != nil {
			return
		}
		_, err := c.Run(context.Background(), "exit 0", nil, nil, nil)
		wantError(t, err, "", "open session: ")
		w.Close()
	}()
	if status, err := c.Run(context.Background(), "cat", r, nil, nil); status != 0 || err != nil {
		t.Errorf("got %d, %v", status, err)
	}
}

// Quoted words reach a program there as they are.
func TestQuote(t *testing.T) {
	s := newSSHD(t, "")
	c := dial(t, dialer(t, ""), s.target())
	words := []string{"", "it's", "a b", "$HOME `id` \\ \"", "line\n\nbreak", "-n", "\xff", "ü"}
	line, err := target.Quote(append([]string{"printf", "%s\\0"}, words...)...)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := sh(t, c, line), strings.Join(words, "\x00")+"\x00"; got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}
