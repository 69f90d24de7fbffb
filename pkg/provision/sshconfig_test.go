package provision_test

import (
	"testing"

	"nx/pkg/provision"
	"nx/pkg/record"
)

func TestSSHConfig(t *testing.T) {
	var hosts []*record.Record
	for _, line := range []string{
		`{"nx":1,"name":"db","target":{"host":"db.lan"}}`,
		`{"nx":1,"name":"new"}`,
		`{"nx":1,"name":"web","target":{"host":"fe80::1%eth0","port":2222,"user":"admin","hostKeys":["ssh-ed25519 AAAA","ssh-ed25519 BBBB"],"identityFile":".nx/id/k","proxyJump":"me@gate:22"}}`,
	} {
		hosts = append(hosts, must[*record.Record](t)(record.Parse([]byte(line))))
	}
	config, known, err := provision.SSHConfig("/home/me/100% shop", "/home/me/100% shop/"+provision.KnownHosts, hosts)
	if err != nil {
		t.Fatal(err)
	}
	const want = `# Written by nx-provision ssh-config.

Host db
  HostName db.lan
  User root

Host web
  HostName fe80::1%%eth0
  Port 2222
  User admin
  IdentityFile "/home/me/100%% shop/.nx/id/k"
  IdentitiesOnly yes
  ProxyJump me@gate:22
  HostKeyAlias web
  UserKnownHostsFile "/home/me/100%% shop/.nx/known_hosts"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
`
	if config != want {
		t.Errorf("got\n%s\nwant\n%s", config, want)
	}
	if want := "web ssh-ed25519 AAAA\nweb ssh-ed25519 BBBB\n"; known != want {
		t.Errorf("got\n%s\nwant\n%s", known, want)
	}
}
