package remote

import (
	"crypto/ed25519"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestParseConfig(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   string
		want config
		err  string
	}{
		{name: "OpenSSH 9.2", in: "host web1\nuser root\nhostname 10.0.0.1\nport 22\naddressfamily any\nidentitiesonly no\n" +
			"serveralivecountmax 3\nserveraliveinterval 0\nidentityfile ~/.ssh/id_rsa\nidentityfile /a b/id\n" +
			"globalknownhostsfile /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2\nuserknownhostsfile /tmp/a b /root/.x\nconnecttimeout none\n",
			want: config{hostName: "10.0.0.1", user: "root", port: 22, agent: "SSH_AUTH_SOCK", aliveCount: 3,
				identityFiles: []string{"~/.ssh/id_rsa", "/a b/id"},
				knownHosts:    []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2", "/tmp/a b", "/root/.x"}}},
		{name: "all that is read", in: "hostname h\nport 2\nuser u\naddressfamily inet6\nidentitiesonly yes\nidentityagent none\nhostkeyalias k\n" +
			"proxyjump a,b@c:22\nproxycommand nc %h %p\nproxyusefdpass no\nconnecttimeout 7\nserveraliveinterval 9\nserveralivecountmax 4\n",
			want: config{hostName: "h", port: 2, user: "u", network: "tcp6", identitiesOnly: true, agent: "none", hostKeyAlias: "k",
				proxyJump: "a,b@c:22", proxyCommand: "nc %h %p", timeout: 7 * time.Second, aliveInterval: 9 * time.Second, aliveCount: 4}},
		{name: "nothing", err: "no hostname"},
		{name: "port out of range", in: "hostname h\nport 70000\n", err: `port "70000"`},
		{name: "time that is none", in: "hostname h\nconnecttimeout -1\n", err: `connecttimeout "-1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseConfig([]byte(tt.in))
			if tt.err != "" {
				wantError(t, err, "", tt.err)
			} else if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("parseConfig\n got %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	if out, err := exec.Command("ssh", "-T", "-F", "/dev/null", "-G", "--", "web1").Output(); err == nil {
		f.Add(out)
	}
	f.Add([]byte("hostname h\nport 22\nuserknownhostsfile a  b /c\nidentityfile %d/%h\nidentityagent $\nproxyjump none\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		c, err := parseConfig(out)
		if err != nil {
			return
		}
		c = Dialer{}.complete(hop{}, "/home/me", c)
		if c.hostName == "" || c.port < 1 || c.port > 65535 || c.timeout <= 0 || c.aliveInterval <= 0 || c.aliveCount == 0 {
			t.Errorf("%q gives %+v", out, c)
		}
	})
}

// Host patterns match as in ssh(1): each case is held against ssh-keygen -F.
func TestMatchHost(t *testing.T) {
	key, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	line := string(ssh.MarshalAuthorizedKey(key))
	_, err = exec.LookPath("ssh-keygen")
	for _, tt := range []struct {
		patterns, name string
		want           bool
	}{
		{"web1", "web1", true},
		{"web1", "web2", false},
		{"WEB1", "web1", true},
		{"a,web1,b", "web1", true},
		{"web*", "web1", true},
		{"*1", "web1", true},
		{"w*b*", "web1", true},
		{"web?", "web1", true},
		{"web1?", "web1", false},
		{"*", "web1", true},
		{"*,!web1", "web1", false},
		{"!web1", "web2", false},
		{"[10.0.0.1]:2222", "[10.0.0.1]:2222", true},
		{"10.0.0.1", "[10.0.0.1]:2222", false},
		{"[*]:2222", "[10.0.0.1]:2222", true},
		{"::1", "::1", true},
	} {
		if got := matchHost(strings.Split(tt.patterns, ","), tt.name); got != tt.want {
			t.Errorf("matchHost(%q, %q) = %v, want %v", tt.patterns, tt.name, got, tt.want)
		}
		if err == nil {
			file := write(t, t.TempDir()+"/known", tt.patterns+" "+line)
			if found := exec.Command("ssh-keygen", "-F", tt.name, "-f", file).Run() == nil; found != tt.want {
				t.Errorf("ssh-keygen -F %q finds %q: %v, want %v", tt.name, tt.patterns, found, tt.want)
			}
		}
	}
}

func FuzzKnownHosts(f *testing.F) {
	key, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	line := string(ssh.MarshalAuthorizedKey(key))
	f.Add([]byte("web1 " + line))
	f.Add([]byte("@revoked w*,!web2 " + line + "|1|AAAA|AAAA " + line + "# x\n@cert-authority"))
	f.Fuzz(func(t *testing.T, file []byte) {
		k := &hostKeys{names: []string{"web1"}, principal: "web1"}
		k.read("file", file, "web1")
		if err := k.check(key); err == nil && !has(k.keys, key) {
			t.Errorf("%q accepts a key it does not have", file)
		}
	})
}
