package provision

import (
	"fmt"
	"path/filepath"
	"strings"

	"nx/pkg/record"
)

// KnownHosts is the file that [SSHConfig] refers to for host keys, below a tool's --root.
const KnownHosts = ".nx/known_hosts"

// SSHConfig returns the hosts of records as ssh_config(5) has them, by the names that
// the network gives them, and the lines for the file knownHosts. Root, from where
// relative paths in records start, and knownHosts are absolute. A host whose key is not known is left to the user's own known hosts.
func SSHConfig(root, knownHosts string, hosts []*record.Record) (config, known string, err error) {
	var c, k strings.Builder
	c.WriteString("# Written by nx-provision ssh-config.\n")
	for _, r := range hosts {
		if !r.Get("target").Exists() {
			continue
		}
		t, err := r.Target()
		if err != nil {
			return "", "", fmt.Errorf("describe %s: %w", r.Name(), err)
		}
		fmt.Fprintf(&c, "\nHost %s\n", r.Name())
		option := func(name, value string) { fmt.Fprintf(&c, "  %s %s\n", name, quoteOption(value)) }
		if strings.ContainsAny(t.IdentityFile+knownHosts+root, "\"\n\r\x00") {
			// ssh_config(5) has no way to write it, and what follows would be another option
			return "", "", fmt.Errorf("describe %s: the name of a file has a quote or a line break: %q", r.Name(), []string{root, t.IdentityFile, knownHosts})
		}
		option("HostName", strings.ReplaceAll(t.Host, "%", "%%"))
		if t.Port != 0 {
			option("Port", fmt.Sprint(t.Port))
		}
		option("User", t.Login())
		if t.IdentityFile != "" {
			file := t.IdentityFile
			if !filepath.IsAbs(file) {
				file = filepath.Join(root, file)
			}
			option("IdentityFile", strings.ReplaceAll(file, "%", "%%"))
			option("IdentitiesOnly", "yes")
		}
		if t.ProxyJump != "" {
			option("ProxyJump", t.ProxyJump)
		}
		if len(t.HostKeys) > 0 {
			option("HostKeyAlias", r.Name())
			option("UserKnownHostsFile", strings.ReplaceAll(knownHosts, "%", "%%"))
			option("GlobalKnownHostsFile", "/dev/null")
			option("StrictHostKeyChecking", "yes")
			for _, key := range t.HostKeys {
				fmt.Fprintf(&k, "%s %s\n", r.Name(), key)
			}
		}
	}
	return c.String(), k.String(), nil
}

// quoteOption quotes a value that has a blank.
func quoteOption(s string) string {
	if strings.ContainsAny(s, " \t") {
		return `"` + s + `"`
	}
	return s
}
