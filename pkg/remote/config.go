package remote

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"nx/pkg/target"
)

// A config is what a connection needs to know of one hop, from the target, the
// user's ssh configuration and the defaults.
type config struct {
	hostName       string
	port           int
	user           string
	network        string // for net.Dial: "tcp", "tcp4" or "tcp6"
	identityFiles  []string
	identitiesOnly bool
	agent          string // the agent's socket; "" for none
	knownHosts     []string
	hostKeyAlias   string
	proxyJump      string // "" for none
	proxyCommand   string // "" for none
	timeout        time.Duration
	aliveInterval  time.Duration
	aliveCount     int
}

// configure asks ssh(1) what the user's configuration says of h and fills in
// what it leaves open. What h says is passed to ssh as options, which is how it
// wins and how "Match" sees it.
func (d Dialer) configure(ctx context.Context, h hop) (config, error) {
	home, err := homeDir()
	if err != nil {
		return config{}, err
	}
	path := d.SSH
	if path == "" {
		if path, err = exec.LookPath("ssh"); err != nil {
			return d.complete(h, home, withoutSSH(h, home)), nil
		}
	}
	cmd := exec.CommandContext(ctx, path, sshArgs(d.Config, h, d.identityFile(h))...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return config{}, fmt.Errorf("%s -G %s: %w: %s", path, h.Host, err, oneLine(stderr.String()))
	}
	said, err := parseConfig(out)
	if err != nil {
		return config{}, fmt.Errorf("%s -G %s: %w", path, h.Host, err)
	}
	return d.complete(h, home, said), nil
}

// sshArgs are the arguments that make ssh(1) print its configuration for h.
// -T spares a warning about the missing terminal.
func sshArgs(configFile string, h hop, identity string) []string {
	args := []string{"-T", "-G"}
	for _, a := range []struct{ flag, value string }{
		{"-F", configFile}, {"-l", h.User}, {"-i", identity}, {"-J", h.ProxyJump},
	} {
		if a.value != "" {
			args = append(args, a.flag, a.value)
		}
	}
	if h.Port != 0 {
		args = append(args, "-p", strconv.Itoa(h.Port))
	}
	return append(args, "--", h.Host)
}

// withoutSSH is what ssh would say of h if there were one and no configuration.
func withoutSSH(h hop, home string) config {
	c := config{hostName: h.Host, port: h.Port, user: h.User, proxyJump: h.ProxyJump, agent: "SSH_AUTH_SOCK"}
	if c.user == "" {
		if u, err := user.Current(); err == nil {
			c.user = u.Username
		}
	}
	for _, id := range []string{"id_rsa", "id_ecdsa", "id_ed25519"} {
		c.identityFiles = append(c.identityFiles, filepath.Join(home, ".ssh", id))
	}
	c.knownHosts = []string{filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"}
	return c
}

// parseConfig reads the output of "ssh -G": a keyword in lower case, a space and
// the value on each line (readconf.c, dump_client_config). Keywords that are not
// needed are skipped.
func parseConfig(out []byte) (config, error) {
	var c config
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch key {
		case "hostname":
			c.hostName = value
		case "port":
			c.port, err = strconv.Atoi(value)
			if err == nil && (c.port < 1 || c.port > 65535) {
				err = strconv.ErrRange
			}
		case "user":
			c.user = value
		case "addressfamily":
			c.network = map[string]string{"inet": "tcp4", "inet6": "tcp6"}[value]
		case "identityfile":
			c.identityFiles = append(c.identityFiles, value)
		case "identitiesonly":
			c.identitiesOnly = value == "yes"
		case "identityagent":
			c.agent = value
		case "userknownhostsfile", "globalknownhostsfile":
			c.knownHosts = append(c.knownHosts, splitPaths(value)...)
		case "hostkeyalias":
			c.hostKeyAlias = value
		case "proxyjump":
			c.proxyJump = value
		case "proxycommand":
			c.proxyCommand = value
		case "proxyusefdpass":
			if value == "yes" {
				err = errors.New("not supported")
			}
		case "connecttimeout":
			c.timeout, err = seconds(value)
		case "serveraliveinterval":
			c.aliveInterval, err = seconds(value)
		case "serveralivecountmax":
			c.aliveCount, err = strconv.Atoi(value)
		}
		if err != nil {
			return config{}, fmt.Errorf("%s %q: %w", key, value, err)
		}
	}
	if err := lines.Err(); err != nil {
		return config{}, err
	}
	if c.hostName == "" {
		return config{}, errors.New("it names no hostname")
	}
	if c.agent == "" {
		c.agent = "SSH_AUTH_SOCK" // IdentityAgent is printed only where it is set
	}
	return c, nil
}

// seconds reads a time in seconds; ssh(1) prints "none" for an unset one.
func seconds(s string) (time.Duration, error) {
	if s == "none" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return time.Duration(n) * time.Second, err
}

// splitPaths splits a list of absolute paths. "ssh -G" prints them unquoted
// with spaces in between, so that a word which begins no path belongs to the
// path before it.
func splitPaths(s string) []string {
	var paths []string
	for _, w := range strings.Split(s, " ") {
		switch {
		case strings.HasPrefix(w, "/") || len(paths) == 0:
			paths = append(paths, w)
		default:
			paths[len(paths)-1] += " " + w
		}
	}
	return paths
}

// complete adds the dialer's own choices and the defaults to what ssh said.
func (d Dialer) complete(h hop, home string, c config) config {
	if c.port == 0 {
		c.port = target.DefaultPort
	}
	if c.network == "" {
		c.network = "tcp"
	}
	for i, f := range c.identityFiles {
		c.identityFiles[i] = expandPath(f, h, c, home)
	}
	switch {
	case c.agent == "none":
		c.agent = ""
	case c.agent == "SSH_AUTH_SOCK":
		c.agent = os.Getenv("SSH_AUTH_SOCK")
	case strings.HasPrefix(c.agent, "$"):
		c.agent = os.Getenv(strings.Trim(c.agent, "${}"))
	default:
		c.agent = expandPath(c.agent, h, c, home)
	}
	if c.proxyJump == "none" {
		c.proxyJump = ""
	}
	if c.proxyCommand == "none" {
		c.proxyCommand = ""
	}
	c.timeout = first(d.Timeout, c.timeout, DefaultTimeout)
	c.aliveCount = first(d.AliveCount, c.aliveCount, DefaultAliveCount)
	if c.aliveInterval == 0 {
		c.aliveCount = first(d.AliveCount, DefaultAliveCount) // the printed count belongs to an interval that is off
	}
	c.aliveInterval = first(d.AliveInterval, c.aliveInterval, DefaultAliveInterval)
	return c
}

// first returns the first value that is not zero.
func first[T comparable](values ...T) (v T) {
	for _, v = range values {
		if v != *new(T) {
			break
		}
	}
	return v
}

// identityFile returns the path of the target's identity file, "" for none.
func (d Dialer) identityFile(h hop) string {
	if h.IdentityFile == "" || filepath.IsAbs(h.IdentityFile) {
		return h.IdentityFile
	}
	return filepath.Join(d.Root, h.IdentityFile)
}

// expandPath expands "~" and the tokens that ssh_config(5) allows in
// IdentityFile and IdentityAgent.
func expandPath(path string, h hop, c config, home string) string {
	local := filepath.Base(home)
	uid := strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		local = u.Username
	}
	hostname, _ := os.Hostname()
	short, _, _ := strings.Cut(hostname, ".")
	path = strings.NewReplacer(
		"%%", "%", "%d", home, "%h", c.hostName, "%i", uid, "%k", first(c.hostKeyAlias, h.Host),
		"%L", short, "%l", hostname, "%n", h.Host, "%p", strconv.Itoa(c.port), "%r", c.user, "%u", local,
	).Replace(path)
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(home, rest)
	}
	return path
}

// homeDir returns the user's home directory as ssh(1) finds it: from the user
// database, whatever HOME says.
func homeDir() (string, error) {
	if u, err := user.Current(); err == nil && u.HomeDir != "" {
		return u.HomeDir, nil
	}
	return os.UserHomeDir()
}

// oneLine makes one line of what a command printed, for a message.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(strings.TrimSpace(s), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
