package target

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	tests := []struct {
		name    string
		target  Target
		wantErr string // substring; empty means success
	}{
		{name: "name", target: Target{Host: "web1.example.org"}},
		{name: "IPv6 with zone", target: Target{Host: "fe80::1%eth0", Port: 65535, User: "a.b-c_d"}},
		{name: "all", target: Target{Host: "h", Port: 22, User: "u", HostKeys: []string{"ssh-ed25519 AAAA comment"},
			IdentityFile: "k", Sudo: []string{"sudo", "-H", "--"}, ProxyJump: "a@[::1]:2222,b", Previous: &Target{Host: "old"}}},
		{name: "no host", target: Target{}, wantErr: "must not be empty"},
		{name: "host that is an option", target: Target{Host: "-oProxyCommand=evil"}, wantErr: "or start with '-'"},
		{name: "host with a blank", target: Target{Host: "a b"}, wantErr: "no host name or address"},
		{name: "host with a command", target: Target{Host: "a;b"}, wantErr: "no host name or address"},
		{name: "port", target: Target{Host: "h", Port: 65536}, wantErr: "65536 is no port"},
		{name: "user that is an option", target: Target{Host: "h", User: "-l"}, wantErr: "no user name"},
		{name: "user with a command", target: Target{Host: "h", User: "a`b`"}, wantErr: "no user name"},
		{name: "identity file that is an option", target: Target{Host: "h", IdentityFile: "-i"}, wantErr: "identityFile"},
		{name: "jump that is an option", target: Target{Host: "h", ProxyJump: "-W"}, wantErr: "proxyJump"},
		{name: "jump with a blank", target: Target{Host: "h", ProxyJump: "a b"}, wantErr: "proxyJump"},
		{name: "host key of one word", target: Target{Host: "h", HostKeys: []string{"AAAA"}}, wantErr: "hostKeys"},
		{name: "two host keys in one", target: Target{Host: "h", HostKeys: []string{"ssh-ed25519 A\nssh-rsa B"}}, wantErr: "hostKeys"},
		{name: "previous", target: Target{Host: "h", Previous: &Target{Host: "-x"}}, wantErr: "target.previous: target.host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.target.Validate()
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("%+v.Validate()\n got %v\nwant %q", tt.target, err, tt.wantErr)
			}
		})
	}
}

func TestAs(t *testing.T) {
	sudo := []string{"sudo", "-H", "--"}
	if got := (Target{Sudo: sudo}).As("id"); !slices.Equal(got, []string{"id"}) {
		t.Errorf("root: %q", got)
	}
	if got := (Target{User: "deploy", Sudo: sudo}).As("id"); !slices.Equal(got, []string{"sudo", "-H", "--", "id"}) || len(sudo) != 3 {
		t.Errorf("deploy: %q", got)
	}
}

// A real shell takes apart what Quote put together.
func TestQuote(t *testing.T) {
	words := []string{"", "a b", "it's", `\'"$HOME` + "`id`", "a\nb", "-n", "*", "é", "\x01\xff", "!x"}
	line, err := Quote(words...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/bin/sh", "-c", `printf '%s\0' `+line).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00"); !slices.Equal(got, words) {
		t.Errorf("got  %q\nwant %q", got, words)
	}
	if _, err := Quote("a\x00b"); err == nil {
		t.Error("a NUL was quoted")
	}
}
