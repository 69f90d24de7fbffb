package testhost

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/ssh"
)

const hostKeyFile = "etc/ssh/ssh_host_ed25519_key"

// makeDisk makes what a host keeps over a reboot. The disk appears whole or not at all.
func makeDisk(disk, name string, opt Options) error {
	tmp := disk + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	for dir, mode := range map[string]fs.FileMode{
		"etc/alternatives": 0o755, "etc/nix": 0o755, "etc/ssh/authorized_keys.d": 0o755,
		"nix/store": 0o755, "nix/var/nix/profiles": 0o755, "nix/var/nix/gcroots": 0o755,
		"var/log": 0o755, "var/lib": 0o755, "var/empty": 0o755, "var/tmp": fs.ModeSticky | 0o777,
		"root/.ssh": 0o700, "root": 0o700,
		"boot": 0o755, "home": 0o755, "tmp": fs.ModeSticky | 0o777,
	} {
		if err := os.MkdirAll(filepath.Join(tmp, dir), 0o755); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
		if err := os.Chmod(filepath.Join(tmp, dir), mode); err != nil { // whatever the umask
			return fmt.Errorf("make disk: %w", err)
		}
	}
	if err := os.Symlink("/run", filepath.Join(tmp, "var/run")); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	for file, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:" + opt.shell() + "\n" +
			"sshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n" +
			"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"etc/group":         "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
		"etc/hosts":         "127.0.0.1 localhost\n127.0.0.2 " + name + "\n",
		"etc/hostname":      name + "\n",
		// what nixos-rebuild, nixos-enter and switch-to-configuration know NixOS by
		"etc/NIXOS":      "",
		"etc/os-release": "ID=nixos\nNAME=NixOS\nPRETTY_NAME=\"a host in namespaces that looks like NixOS\"\n",
		// systemd takes a host without one for new, and enables all services that /usr has
		"etc/machine-id": machineID() + "\n",
		"etc/nix/nix.conf": "build-users-group =\nsandbox = false\nsubstituters =\n" +
			"experimental-features = nix-command flakes\n",
		"var/log/lastlog":     "", // sshd complains when it is not there
		"etc/ld.so.cache":     "", // and alternatives: init.sh mounts this machine's
		"etc/ssh/sshd_config": sshdConfig,
	} {
		if err := os.WriteFile(filepath.Join(tmp, file), []byte(text), 0o644); err != nil {
			return fmt.Errorf("make disk: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(tmp, "etc/shadow"), []byte("root:*:19000:0:99999:7:::\n"), 0o600); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	if _, err := EnsureKey(filepath.Join(tmp, hostKeyFile), ""); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	if err := os.Rename(tmp, disk); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return nil
}

// machineID returns a random id as machine-id(5) wants it.
func machineID() string {
	id := make([]byte, 16)
	rand.Read(id)
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a UUID of version 4
	return hex.EncodeToString(id)
}

// The second AuthorizedKeysFile is where NixOS writes users.users.*.openssh's keys.
const sshdConfig = `HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile %h/.ssh/authorized_keys /etc/ssh/authorized_keys.d/%u
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
PrintMotd no
MaxSessions 64
MaxStartups 200:30:400
AcceptEnv NIX_*
Subsystem sftp internal-sftp
`

// authorize lets the owner of a public key log in as root, besides those who may
// already.
func authorize(disk, key string) error {
	file := filepath.Join(disk, "root/.ssh/authorized_keys")
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("authorize key: %w", err)
	}
	lines := strings.Split(string(trimLine(b)), "\n")
	if slices.Contains(lines, key) {
		return nil
	}
	if len(b) == 0 {
		lines = nil
	}
	text := strings.Join(append(lines, key), "\n") + "\n"
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("authorize key: %w", err)
	}
	if err := renameio.WriteFile(file, []byte(text), 0o600, renameio.WithTempDir(filepath.Dir(file))); err != nil {
		return fmt.Errorf("authorize key: %w", err)
	}
	return nil
}

// EnsureKey returns the public half of the private key in file, as a line
// "ssh-ed25519 AAAA… comment" without its newline. When file is not there it makes
// an ed25519 key, in OpenSSH's form, mode 0600, and the public half in file.pub.
// Of several that make it at once, all return the key that stays.
func EnsureKey(file, comment string) (string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(file, comment); err != nil {
			return "", fmt.Errorf("make key %s: %w", file, err)
		}
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return "", fmt.Errorf("read key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return "", fmt.Errorf("read key %s: %w", file, err)
	}
	line := publicLine(signer.PublicKey(), comment)
	if _, err := os.Stat(file + ".pub"); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(file+".pub", []byte(line+"\n"), 0o644); err != nil {
			return "", fmt.Errorf("write public key: %w", err)
		}
	}
	return line, nil
}

func publicLine(key ssh.PublicKey, comment string) string {
	return strings.TrimSpace(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + comment)
}

// makeKey writes a new key beside file and links it there, which fails, and is well,
// when another one was first.
func makeKey(file, comment string) error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)) // 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(pem.EncodeToMemory(block)); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
