// Package testhost runs hosts on this machine that are real enough to deploy to:
// each has its own network address, sshd with its own host key, /nix with store
// and database, profiles, /etc, /var and home folders, and can be rebooted or cut
// off. A host is a set of Linux namespaces, so it starts in a fifth of a second
// and costs a megabyte. It shares the kernel and a read-only /usr with this
// machine. Its pid 1 is sshd; with [Options.Systemd] it is systemd, which costs
// some more of both.
//
// Hosts outlive the process that started them and are found again by their lab's
// folder. They are made for three users: tests, the sandbox provider, and
// scripts/hosts for trying things by hand.
//
// It needs root, and of Debian the packages iproute2, util-linux, openssh-server
// and nix-bin; for systemd also systemd and dbus, and a mounted cgroup2 file system.
package testhost

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
)

// A Lab is a folder of hosts that see each other and this machine over one bridge.
// Its zero value is no lab: Dir must be set.
type Lab struct {
	// Dir holds the hosts' disks and says which of them run. It is made when the
	// first host starts. A lab that runs may be opened any number of times.
	Dir string

	// IdentityFile is the private key, in OpenSSH's form, that may log in to every
	// host as root. It is made when it is missing, with its public half beside it.
	IdentityFile string
}

// Options say how a host is. The zero value is a host as Debian's packages make it.
type Options struct {
	// Nix is the absolute path of the folder whose bin has nix-store and the rest,
	// "" for /usr. It is mounted read-only at the same place. It counts at every
	// start.
	Nix string

	// Shell is root's login shell, "" for /bin/bash. It counts when the host is made.
	Shell string

	// Systemd makes systemd the host's pid 1, with D-Bus, journal and logind, and
	// sshd one of its services. It counts at every start.
	Systemd bool
}

// ErrNoHost says that the lab has no host of that name.
var ErrNoHost = errors.New("no such host")

// A MissingError says what this machine lacks to run hosts.
type MissingError struct {
	Program string // what was looked for, such as "/usr/sbin/sshd"; "" when it is root
	Package string // the Debian package that has it
}

func (e *MissingError) Error() string {
	if e.Program == "" {
		return "needs root, to make namespaces and a bridge"
	}
	return fmt.Sprintf("%s is missing: it is in Debian's package %s", e.Program, e.Package)
}

// Hint says how to get it.
func (e *MissingError) Hint() string {
	if e.Program == "" {
		return "run it as root, for example with sudo"
	}
	return "apt-get install " + e.Package
}

// Supported tells what this machine lacks to run a host with these options, or nil.
// What Debian has is a [*MissingError].
func Supported(opt Options) error {
	if os.Geteuid() != 0 {
		return &MissingError{}
	}
	needs := []MissingError{
		{"ip", "iproute2"},
		{"unshare", "util-linux"},
		{"nsenter", "util-linux"},
		{"setpriv", "util-linux"},
		{"pivot_root", "util-linux"},
		{"/usr/sbin/sshd", "openssh-server"},
		{filepath.Join(opt.nix(), "bin", "nix-store"), "nix-bin"},
	}
	if opt.Systemd {
		if _, err := cgroupRoot(); err != nil {
			return err
		}
		needs = append(needs, MissingError{systemd, "systemd"}, MissingError{"dbus-daemon", "dbus"})
	}
	for _, m := range needs {
		if _, err := lookPath(m.Program); err != nil {
			return &m
		}
	}
	return nil
}

func (o Options) nix() string {
	if o.Nix == "" {
		return "/usr"
	}
	return filepath.Clean(o.Nix)
}

func (o Options) shell() string {
	if o.Shell == "" {
		return "/bin/bash"
	}
	return o.Shell
}

func (o Options) init() string {
	if o.Systemd {
		return "systemd"
	}
	return "sshd"
}

// systemd is where init.sh finds it, with or without a merged /usr.
const systemd = "/lib/systemd/systemd"

// path is where the programs that hosts are started with are looked for: root's
// usual one, whatever the caller's is.
const path = "/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath is exec.LookPath in path.
func lookPath(program string) (string, error) {
	if filepath.IsAbs(program) {
		return exec.LookPath(program)
	}
	for _, dir := range filepath.SplitList(path) {
		if p, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w", program, exec.ErrNotFound)
}

// registry is the lab's memory, the file .lab.json.
type registry struct {
	Version int            `json:"version"` // 1
	ID      string         `json:"id"`      // random; the alias of the lab's bridge
	Net     int            `json:"net"`     // hosts are in 10.231.Net.0/24
	Hosts   map[string]int `json:"hosts"`   // last byte of each host's address
}

// Host names begin with no dot, so these are no host's folder.
const (
	registryFile = ".lab.json"
	lockFile     = ".lock"
)

// read returns the lab's memory, with no ID when there is none yet.
func (l *Lab) read() (*registry, error) {
	file := filepath.Join(l.Dir, registryFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return &registry{Version: 1, Hosts: map[string]int{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read lab: %w", err)
	}
	r := &registry{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("read lab %s: %w", file, err)
	}
	if r.Version != 1 || len(r.ID) != 32 || r.Net < 0 || r.Net > 255 || r.Hosts == nil {
		return nil, fmt.Errorf("read lab %s: version %d, id %q, net %d: this is no lab of version 1", file, r.Version, r.ID, r.Net)
	}
	return r, nil
}

func (l *Lab) write(r *registry) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	file := filepath.Join(l.Dir, registryFile)
	if err := renameio.WriteFile(file, append(b, '\n'), 0o600, renameio.WithTempDir(l.Dir)); err != nil {
		return fmt.Errorf("write lab: %w", err)
	}
	return nil
}

// change runs f while no other process changes this lab, and writes what f made of r
// if that is anything new.
func (l *Lab) change(ctx context.Context, f func(r *registry) error) error {
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return fmt.Errorf("make lab: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(l.Dir, lockFile))
	if err != nil {
		return err
	}
	defer unlock()
	r, err := l.read()
	if err != nil {
		return err
	}
	if r.ID == "" {
		id := make([]byte, 16)
		rand.Read(id)
		r.ID, r.Net = hex.EncodeToString(id), int(id[0])
		// before a bridge carries it: who is killed leaves one that is found again
		if err := l.write(r); err != nil {
			return err
		}
	}
	before := *r
	before.Hosts = maps.Clone(r.Hosts)
	if err := f(r); err != nil {
		return err
	}
	if reflect.DeepEqual(*r, before) {
		return nil
	}
	return l.write(r)
}

// lock waits until it has the lock file alone.
func lock(ctx context.Context, file string) (unlock func(), err error) {
	f := flock.New(file, flock.SetPermissions(0o600))
	if _, err := f.TryLockContext(ctx, 5*time.Millisecond); err != nil {
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return func() { f.Unlock() }, nil
}

// Host finds a host, whether it runs or not. When there is none the error wraps
// [ErrNoHost].
func (l *Lab) Host(name string) (*Host, error) {
	r, err := l.read()
	if err != nil {
		return nil, err
	}
	return l.host(r, name)
}

func (l *Lab) host(r *registry, name string) (*Host, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	h := &Host{Name: name, lab: l, dir: filepath.Join(l.Dir, name)}
	last, ok := r.Hosts[name]
	if !ok {
		return nil, fmt.Errorf("find host %s in %s: %w", name, l.Dir, ErrNoHost)
	}
	key, err := os.ReadFile(filepath.Join(h.dir, "disk", hostKeyFile+".pub"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("find host %s in %s: %w", name, l.Dir, ErrNoHost)
	}
	if err != nil {
		return nil, fmt.Errorf("find host %s: %w", name, err)
	}
	h.HostKey = string(trimLine(key))
	h.net, h.last = r.Net, last
	h.Addr = netip.AddrFrom4([4]byte{10, 231, byte(r.Net), byte(last)})
	return h, nil
}

// Hosts returns the lab's hosts in the order of their names, whether they run or not.
func (l *Lab) Hosts() ([]*Host, error) {
	r, err := l.read()
	if err != nil {
		return nil, err
	}
	var hosts []*Host
	for name := range r.Hosts {
		h, err := l.host(r, name)
		if errors.Is(err, ErrNoHost) {
			continue // its maker was killed half way
		}
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b *Host) int { return cmp.Compare(a.Name, b.Name) })
	return hosts, nil
}

// Remove stops every host and removes the lab's folder with all disks. A lab that
// is not there is removed already.
func (l *Lab) Remove(ctx context.Context) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	for name := range r.Hosts {
		if err := l.RemoveHost(ctx, name); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(l.Dir); err != nil {
		return fmt.Errorf("remove lab: %w", err)
	}
	return nil
}
