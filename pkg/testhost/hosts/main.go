// Hosts starts test hosts by hand; scripts/hosts says how it is used.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"nx/pkg/testhost"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("hosts: ")
	dir := flag.String("dir", ".nx/hosts", "the lab's folder")
	nix := flag.String("nix", "", "with up: the folder whose bin has the hosts' Nix (default /usr)")
	systemd := flag.Bool("systemd", false, "with up: the hosts run systemd")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// The names in ssh_config are absolute, for ssh may be run anywhere.
	abs, err := filepath.Abs(*dir)
	if err != nil {
		log.Fatal(err)
	}
	lab := &testhost.Lab{Dir: abs, IdentityFile: filepath.Join(abs, ".id_ed25519")}
	if err := run(ctx, lab, testhost.Options{Nix: *nix, Systemd: *systemd}, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, lab *testhost.Lab, opt testhost.Options, args []string) error {
	switch verb, operands := args[0], args[1:]; {
	case verb == "up" && len(operands) == 1:
		n, err := strconv.Atoi(operands[0])
		if err != nil || n < 1 {
			return fmt.Errorf("start hosts: %q is no number of hosts", operands[0])
		}
		return up(ctx, lab, opt, n)
	case verb == "list" && len(operands) == 0:
		return list(lab)
	case verb == "down" && len(operands) == 0:
		return lab.Remove(ctx)
	case len(operands) == 1:
		h, err := lab.Host("h" + strings.TrimPrefix(operands[0], "h"))
		if err != nil {
			return err
		}
		switch verb {
		case "cut":
			return h.Cut(ctx)
		case "mend":
			return h.Mend(ctx)
		case "reboot":
			return h.Reboot(ctx)
		case "stop":
			return h.Stop(ctx)
		}
	}
	return errors.New("unknown verb or wrong number of operands")
}

func up(ctx context.Context, lab *testhost.Lab, opt testhost.Options, n int) error {
	var g errgroup.Group
	for i := range n {
		g.Go(func() error {
			_, err := lab.Start(ctx, fmt.Sprintf("h%d", i+1), opt)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	hosts, err := lab.Hosts()
	if err != nil {
		return err
	}
	var config, known strings.Builder
	for _, h := range hosts {
		fmt.Fprintf(&config, "Host %s\n  HostName %s\n", h.Name, h.Addr)
		fmt.Fprintf(&known, "%s %s\n", h.Addr, h.HostKey)
	}
	fmt.Fprintf(&config, "Host *\n  User root\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  StrictHostKeyChecking yes\n",
		lab.IdentityFile, filepath.Join(lab.Dir, ".known_hosts"))
	for name, text := range map[string]string{".known_hosts": known.String(), ".ssh_config": config.String()} {
		if err := renameio.WriteFile(filepath.Join(lab.Dir, name), []byte(text), 0o600, renameio.WithTempDir(lab.Dir)); err != nil {
			return fmt.Errorf("write ssh configuration: %w", err)
		}
	}
	return list(lab)
}

func list(lab *testhost.Lab) error {
	hosts, err := lab.Hosts()
	if err != nil {
		return err
	}
	for _, h := range hosts {
		on, err := h.Running()
		if err != nil {
			return err
		}
		fmt.Printf("%s\t%s\t%s\n", h.Name, h.Addr, map[bool]string{true: "up", false: "off"}[on])
	}
	return nil
}
