package testhost

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"nx/pkg/target"
)

// A Host is one machine of a lab. Its folder in the lab has
//
//	disk/          what survives a reboot: etc nix var root boot home tmp
//	mnt/           where it mounts its root, empty as seen from here
//	console.log    what it said before sshd was there; disk/var/log/boot.log goes on
//	running        locked by its supervisor
//	pid, pid1      of the supervisor and of the host's pid 1, as seen from here
//	booted         is there when init.sh has done its part
//	*.sh           the scripts that it runs
type Host struct {
	Name    string
	Addr    netip.Addr // on the lab's bridge
	HostKey string     // sshd's public key, "ssh-ed25519 AAAA…"

	lab       *Lab
	dir       string
	net, last int // Addr is 10.231.net.last
}

//go:embed supervise.sh
var superviseScript []byte

//go:embed init.sh
var initScript []byte

// bootTime is how long a host may take until its sshd answers. It takes 0.2 s.
const bootTime = time.Minute

// systemdReboot is SIGRTMIN+5, at which systemd starts its reboot.target (systemd(1)).
const systemdReboot = unix.Signal(34 + 5)

// errOff says that a host does not run.
var errOff = errors.New("host is off")

func checkName(name string) error {
	// 63: hostname(7)
	ok := name != "" && len(name) <= 63
	for i, c := range name {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			ok = false
		}
	}
	if !ok {
		return fmt.Errorf("host name %q is not 1 to 63 letters, digits and '_', '.', '-' with no '.' or '-' in front", name)
	}
	return nil
}

// Start makes the host unless it is there, starts it unless it runs, and returns
// when its sshd answers. A host that runs with its cable pulled stays cut off and is
// not waited for. Whoever was killed while starting a host, the next Start ends right.
// What this machine lacks is a [*MissingError].
func (l *Lab) Start(ctx context.Context, name string, opt Options) (*Host, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := Supported(opt); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	dir, err := filepath.Abs(l.Dir)
	if err != nil {
		return nil, fmt.Errorf("start host %s: %w", name, err)
	}
	h := &Host{Name: name, lab: l, dir: filepath.Join(dir, name)}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return nil, fmt.Errorf("start host %s: %w", name, err)
	}
	authorized, err := EnsureKey(l.IdentityFile, "nx")
	if err != nil {
		return nil, fmt.Errorf("start host %s: %w", name, err)
	}
	for {
		running, err := h.lock(syscall.LOCK_EX)
		if err != nil {
			return nil, fmt.Errorf("start host %s: %w", name, err)
		}
		if running != nil {
			err = h.boot(ctx, opt, authorized, running)
			running.Close()
		}
		if err == nil {
			err = h.ready(ctx)
		}
		if running == nil && errors.Is(err, errOff) {
			continue // who started it was killed before it was under way
		}
		if err != nil {
			return nil, fmt.Errorf("start host %s: %w", name, err)
		}
		found, err := l.Host(name)
		if err != nil {
			return nil, err
		}
		return found, authorize(filepath.Join(h.dir, "disk"), authorized)
	}
}

// boot makes what is missing and starts the supervisor, which inherits the lock.
func (h *Host) boot(ctx context.Context, opt Options, authorized string, running *os.File) error {
	disk := filepath.Join(h.dir, "disk")
	if _, err := os.Stat(disk); errors.Is(err, fs.ErrNotExist) {
		if err := makeDisk(disk, h.Name, opt); err != nil {
			return err
		}
	}
	if err := authorize(disk, authorized); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "mnt"), 0o755); err != nil {
		return err
	}
	// What a supervisor that was killed has left says nothing of the next boot.
	for _, name := range []string{"pid", "pid1", "booted"} {
		if err := os.RemoveAll(filepath.Join(h.dir, name)); err != nil {
			return err
		}
	}
	for name, text := range map[string][]byte{"supervise.sh": superviseScript, "init.sh": initScript} {
		file := filepath.Join(h.dir, name)
		if err := os.WriteFile(file+".new", text, 0o644); err != nil {
			return err
		}
		// By rename: the old one of a host that ends just now is still being read.
		if err := os.Rename(file+".new", file); err != nil {
			return err
		}
	}
	return h.lab.change(ctx, func(r *registry) error {
		last, ok := r.Hosts[h.Name]
		if !ok {
			if last, ok = unused(r, h.Name); !ok {
				return fmt.Errorf("find an address in %s: all are in use", subnet(r.Net))
			}
			r.Hosts[h.Name] = last
		}
		if err := connect(ctx, r); err != nil {
			return err
		}
		// Before it runs: who is killed now leaves a host that the lab knows.
		if err := h.lab.write(r); err != nil {
			return err
		}
		return h.supervise(ctx, r.Net, last, opt, running)
	})
}

// unused returns the last byte of an address that no host has: the first one from
// where the name's hash points, so that a host made again gets its old one, and hosts
// started at once do not get them by chance. 1 is the bridge's.
func unused(r *registry, name string) (int, bool) {
	taken := map[int]bool{}
	for _, last := range r.Hosts {
		taken[last] = true
	}
	hash := fnv.New32a()
	hash.Write([]byte(name))
	for n := range uint32(253) {
		if last := 2 + int((hash.Sum32()%253+n)%253); !taken[last] {
			return last, true
		}
	}
	return 0, false
}

// supervise starts supervise.sh in a network namespace of its own, plugs the cable in
// and tells it to go on. If this process dies before that, so does the supervisor.
func (h *Host) supervise(ctx context.Context, k, last int, opt Options, running *os.File) error {
	console, err := os.Create(filepath.Join(h.dir, "console.log"))
	if err != nil {
		return err
	}
	defer console.Close()
	// Not CommandContext: the host outlives ctx.
	cmd := exec.Command("/bin/sh", filepath.Join(h.dir, "supervise.sh"),
		h.dir, h.Name, fmt.Sprintf("10.231.%d.%d/24", k, last), opt.nix(), opt.init())
	if opt.Systemd {
		group, err := cgroup(k, last)
		if err != nil {
			return err
		}
		cmd.Args = append(cmd.Args, group)
	}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + path}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{running}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	go cmd.Wait() // reaps it if it ends before this process does
	if err := plug(ctx, k, last, cmd.Process.Pid); err != nil {
		return err
	}
	_, err = stdin.Write([]byte("go\n"))
	return err
}

// lock returns the open and locked file "running", or nil when the supervisor has it.
// how is LOCK_SH to look, LOCK_EX to become the supervisor's.
func (h *Host) lock(how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(h.dir, "running"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err {
	case nil:
		return f, nil
	case syscall.EWOULDBLOCK:
		f.Close()
		return nil, nil
	default:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
}

// Running tells whether the host is switched on. A host that is just coming up is.
func (h *Host) Running() (bool, error) {
	f, err := h.lock(syscall.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at host %s: %w", h.Name, err)
	}
	if f == nil {
		return true, nil
	}
	return false, f.Close()
}

// ready waits until sshd has said its banner. The kernel tells nobody when a port
// is listened at, so it asks again and again, ever more slowly; but not before the
// host's interface is up, since an ARP request that is lost costs a second.
func (h *Host) ready(ctx context.Context) error {
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		r, err := h.lab.read()
		if err != nil {
			return err
		}
		last, known := r.Hosts[h.Name]
		booted := h.booted()
		if known && booted {
			if err := banner(ctx, fmt.Sprintf("10.231.%d.%d:22", r.Net, last)); err == nil {
				return nil
			}
		}
		switch on, err := h.Running(); {
		case err != nil:
			return err
		case !on:
			return fmt.Errorf("%w: %s", errOff, h.console())
		case known && booted && !plugged(r.Net, last):
			return nil // cut off on purpose
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("wait for its sshd: %w: %s", ctx.Err(), h.console())
		}
	}
}

func (h *Host) booted() bool {
	_, err := os.Stat(filepath.Join(h.dir, "booted"))
	return err == nil
}

// banner connects to an ssh server and reads the first bytes of its banner (RFC 4253, 4.2).
func banner(ctx context.Context, addr string) error {
	d := net.Dialer{Timeout: 2 * time.Second}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := c.Read(b); err != nil {
		return err
	}
	if string(b) != "SSH-" {
		return fmt.Errorf("%s answers %q, which is no ssh server", addr, b)
	}
	return nil
}

// console returns the last words of a host that did not come up, on one line.
func (h *Host) console() string {
	b, err := os.ReadFile(filepath.Join(h.dir, "console.log"))
	if err != nil {
		return err.Error()
	}
	said := strings.TrimSpace(string(b))
	if said == "" {
		return "it has said nothing"
	}
	lines := strings.Split(said, "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// Target returns how the host is reached: as root, with the lab's identity file.
func (h *Host) Target() target.Target {
	return target.Target{
		Host:         h.Addr.String(),
		User:         target.DefaultUser,
		HostKeys:     []string{h.HostKey},
		IdentityFile: h.lab.IdentityFile,
	}
}

// Disk returns the folder here that is the host's root folder of that name: "etc",
// "nix", "var", "root", "boot", "home" or "tmp".
func (h *Host) Disk(name string) string { return filepath.Join(h.dir, "disk", name) }

// Cut pulls the host's cable: what is sent to it or by it is lost without a word.
// It lasts over a reboot of the host.
func (h *Host) Cut(ctx context.Context) error {
	if err := ipBatch(ctx, "link set "+portName(h.net, h.last)+" down\n"); err != nil {
		return fmt.Errorf("cut host %s: %w", h.Name, err)
	}
	return nil
}

// Mend plugs the cable in again.
func (h *Host) Mend(ctx context.Context) error {
	if err := ipBatch(ctx, "link set "+portName(h.net, h.last)+" up\n"); err != nil {
		return fmt.Errorf("mend host %s: %w", h.Name, err)
	}
	return nil
}

// Reboot has the host's pid 1 end as "kill 1" or "systemctl reboot" there does, and
// returns when the sshd of the next boot answers, at once when the cable is pulled.
func (h *Host) Reboot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	p, err := h.process("pid1")
	if err != nil {
		return fmt.Errorf("reboot host %s: %w", h.Name, err)
	}
	defer p.close()
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid))
	if err != nil {
		return fmt.Errorf("reboot host %s: %w", h.Name, err)
	}
	sig := unix.SIGTERM
	if string(trimLine(comm)) == "systemd" {
		sig = systemdReboot
	}
	if err := p.kill(sig); err != nil {
		return fmt.Errorf("reboot host %s: %w", h.Name, err)
	}
	if err := p.wait(ctx); err != nil {
		return fmt.Errorf("reboot host %s: %w", h.Name, err)
	}
	if err := h.ready(ctx); err != nil {
		return fmt.Errorf("reboot host %s: %w", h.Name, err)
	}
	return nil
}

// Stop switches the host off, as pulling its plug does, and returns when its last
// process is gone. Its disk stays. A host that is off is left so.
func (h *Host) Stop(ctx context.Context) error {
	if err := h.off(ctx); err != nil {
		return fmt.Errorf("stop host %s: %w", h.Name, err)
	}
	return h.lab.change(ctx, func(r *registry) error {
		if last, ok := r.Hosts[h.Name]; ok {
			if err := errors.Join(unplug(ctx, r.Net, last), removeCgroup(ctx, r.Net, last)); err != nil {
				return fmt.Errorf("stop host %s: %w", h.Name, err)
			}
		}
		return disconnect(ctx, r)
	})
}

// off ends the supervisor and pid 1 and waits for both.
func (h *Host) off(ctx context.Context) error {
	for {
		on, err := h.Running()
		if err != nil || !on {
			return err
		}
		supervisor, err := h.process("pid")
		if errors.Is(err, errOff) { // somebody starts it just now
			select {
			case <-time.After(5 * time.Millisecond):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err != nil {
			return err
		}
		defer supervisor.close()
		init, err := h.process("pid1")
		if err == nil {
			defer init.close()
		}
		if err := supervisor.kill(unix.SIGTERM); err != nil {
			return err
		}
		patience, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := supervisor.wait(patience); err != nil {
			// the kernel then ends unshare, and with it pid 1 and all below
			if err := supervisor.kill(unix.SIGKILL); err != nil {
				return err
			}
			if err := supervisor.wait(ctx); err != nil {
				return err
			}
		}
		if init != nil {
			return init.wait(ctx)
		}
		return nil
	}
}

// RemoveHost stops the host and removes its disk; a host that is not there is
// removed already.
func (l *Lab) RemoveHost(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	h := &Host{Name: name, lab: l, dir: filepath.Join(l.Dir, name)}
	if _, err := os.Lstat(l.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := h.Stop(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(h.dir); err != nil {
		return fmt.Errorf("remove host %s: %w", name, err)
	}
	return l.change(ctx, func(r *registry) error {
		delete(r.Hosts, name)
		return nil
	})
}

// Command returns a command that runs argv as root inside the host, past its sshd
// and whether its cable is plugged or not. Its output is the caller's to connect.
func (h *Host) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	p, err := h.process("pid1")
	if err != nil {
		return nil, fmt.Errorf("run %s in host %s: %w", argv[0], h.Name, err)
	}
	defer p.close()
	nsenter, err := lookPath("nsenter")
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, nsenter, append([]string{
		"--target", strconv.Itoa(p.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--",
		"/usr/bin/env", "-i", "HOME=/root", "USER=root", "PATH=/run/current-system/sw/bin:" + path,
	}, argv...)...), nil
}

// Exec runs a script with the host's /bin/sh, see [Host.Command], and returns what
// it wrote to stdout. The error has what it wrote to stderr.
func (h *Host) Exec(ctx context.Context, script string) (string, error) {
	cmd, err := h.Command(ctx, "/bin/sh", "-c", script)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("run %q in host %s: %w: %s", script, h.Name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// A process is held by a pidfd, so that no signal hits another one that has got its
// number since.
type process struct{ pid, fd int }

// process opens the process whose number is in file. The lock that the host's
// supervisor holds vouches for the file being of this boot of this machine. The
// error wraps errOff when there is none.
func (h *Host) process(file string) (*process, error) {
	b, err := os.ReadFile(filepath.Join(h.dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errOff
	}
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(string(trimLine(b)))
	if err != nil {
		return nil, fmt.Errorf("%w: %s has %q", errOff, file, b) // being written just now
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, errOff
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: fd}
	on, err := h.Running()
	if err == nil && !on {
		err = errOff
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *process) close() { unix.Close(p.fd) }

// kill sends a signal; a process that is gone needs none.
func (p *process) kill(sig unix.Signal) error {
	if err := unix.PidfdSendSignal(p.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// wait returns when the process has ended, or with ctx's error.
func (p *process) wait(ctx context.Context) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(wake)
	stop := context.AfterFunc(ctx, func() { unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	defer stop()
	for {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for process %d: %w", p.pid, err)
		case fds[0].Revents != 0:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("wait for process %d: %w", p.pid, ctx.Err())
		}
	}
}

func trimLine(b []byte) []byte { return bytes.TrimRight(b, "\n") }
