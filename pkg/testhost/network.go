package testhost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
)

// All labs of this machine share 10.231.0.0/16, a /24 each. The bridge of lab net K
// is named nxK and has the address 10.231.K.1; the kernel refuses a second one of
// that name, and its alias says whose it is. Host I has 10.231.K.I, and its cable's
// near end is the port nxK.I. Hardware addresses follow from K and I: a host that is
// made again at once must not wait until its neighbours forget the old one.
//
// The routes are the /24's alone: no host reaches further than its lab and this machine.
var labs = netip.MustParsePrefix("10.231.0.0/16")

const netsLock = "/run/nx-testhost.lock" // held while a bridge is chosen, made or removed

func bridgeName(k int) string  { return fmt.Sprintf("nx%d", k) }
func portName(k, i int) string { return fmt.Sprintf("nx%d.%d", k, i) }
func mac(k, i int) string      { return fmt.Sprintf("02:6e:78:%02x:00:%02x", k, i) }
func subnet(k int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 231, byte(k), 0}), 24)
}

// connect makes the lab's bridge in the network namespace of the caller, unless it
// is there, and sets r.Net to the one that it got: its old one if that is still free.
func connect(ctx context.Context, r *registry) error {
	unlock, err := lock(ctx, netsLock)
	if err != nil {
		return err
	}
	defer unlock()
	links, err := ipJSON[link](ctx, "link", "show")
	if err != nil {
		return err
	}
	routes, err := ipJSON[route](ctx, "-4", "route", "show", "table", "all")
	if err != nil {
		return err
	}
	k, ok := choose(r, links, routes)
	if !ok {
		return fmt.Errorf("find a network for the lab: every part of %s is in use", labs)
	}
	r.Net = k
	var batch strings.Builder
	if !hasLink(links, bridgeName(k)) {
		fmt.Fprintf(&batch, "link add %s address %s type bridge forward_delay 0\n", bridgeName(k), mac(k, 1))
	}
	fmt.Fprintf(&batch, "link set %s alias %s\n", bridgeName(k), r.ID)
	fmt.Fprintf(&batch, "address replace 10.231.%d.1/24 dev %s\n", k, bridgeName(k))
	fmt.Fprintf(&batch, "link set %s up\n", bridgeName(k))
	return ipBatch(ctx, batch.String())
}

// disconnect removes the lab's bridge when no host's cable is in it.
func disconnect(ctx context.Context, r *registry) error {
	unlock, err := lock(ctx, netsLock)
	if err != nil {
		return err
	}
	defer unlock()
	links, err := ipJSON[link](ctx, "link", "show")
	if err != nil {
		return err
	}
	for _, b := range links {
		if b.Alias == r.ID && !hasPorts(links, b.Name) {
			return ipBatch(ctx, "link delete "+b.Name+"\n")
		}
	}
	return nil
}

// A link is what "ip -json link show" says of a network interface.
type link struct {
	Name   string `json:"ifname"`
	Alias  string `json:"ifalias"`
	Master string `json:"master"`
}

// A route is what "ip -json route show" says of one.
type route struct {
	Dst string `json:"dst"` // "default", an address or a prefix
	Dev string `json:"dev"`
}

// choose returns the number of the /24 for the lab: the one of its bridge if that is
// there, else the one it had, else the next one that nobody uses.
func choose(r *registry, links []link, routes []route) (int, bool) {
	for k := range 256 {
		for _, l := range links {
			if l.Name == bridgeName(k) && l.Alias == r.ID {
				return k, true
			}
		}
	}
	for n := range 256 {
		if k := (r.Net + n) % 256; free(k, links, routes) {
			return k, true
		}
	}
	return 0, false
}

func free(k int, links []link, routes []route) bool {
	for _, l := range links {
		// a bridge that is nobody's: its maker was killed between two commands
		if l.Name == bridgeName(k) && (l.Alias != "" || hasPorts(links, l.Name)) {
			return false
		}
	}
	for _, r := range routes {
		dst, err := netip.ParsePrefix(r.Dst)
		if err != nil {
			addr, err := netip.ParseAddr(r.Dst)
			if err != nil {
				continue // default
			}
			dst = netip.PrefixFrom(addr, addr.BitLen())
		}
		// A route to much more, as 10.0.0.0/8 of a VPN, may lose one /24 to us.
		if r.Dev != bridgeName(k) && dst.Bits() >= labs.Bits() && dst.Overlaps(subnet(k)) {
			return false
		}
	}
	return true
}

func hasLink(links []link, name string) bool {
	for _, l := range links {
		if l.Name == name {
			return true
		}
	}
	return false
}

func hasPorts(links []link, bridge string) bool {
	for _, l := range links {
		if l.Master == bridge {
			return true
		}
	}
	return false
}

// plug gives the network namespace of process pid an eth0 whose other end is port i
// of the lab's bridge.
func plug(ctx context.Context, k, i, pid int) error {
	if err := unplug(ctx, k, i); err != nil {
		return err
	}
	return ipBatch(ctx, fmt.Sprintf("link add %[1]s type veth peer name eth0 address %[2]s netns %[3]d\nlink set %[1]s master %[4]s up\n",
		portName(k, i), mac(k, i), pid, bridgeName(k)))
}

// unplug removes the cable of port i, with both ends. The kernel does so too when
// the host's network namespace ends, but some time later.
func unplug(ctx context.Context, k, i int) error {
	if _, err := net.InterfaceByName(portName(k, i)); err != nil {
		return nil
	}
	err := ipBatch(ctx, "link delete "+portName(k, i)+"\n")
	if _, gone := net.InterfaceByName(portName(k, i)); gone != nil {
		return nil // the kernel was first
	}
	return err
}

// plugged tells whether port i is there and not cut.
func plugged(k, i int) bool {
	ifc, err := net.InterfaceByName(portName(k, i))
	return err == nil && ifc.Flags&net.FlagUp != 0
}

// ipBatch runs lines of ip(8) commands until one fails.
func ipBatch(ctx context.Context, lines string) error {
	_, err := ip(ctx, lines, "-batch", "-")
	return err
}

func ipJSON[T any](ctx context.Context, args ...string) ([]T, error) {
	out, err := ip(ctx, "", append([]string{"-json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var list []T
	if out = bytes.TrimSpace(out); len(out) == 0 {
		return nil, nil // iproute2 6.1 prints nothing for an empty table
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("read the output of ip %s: %w", strings.Join(args, " "), err)
	}
	return list, nil
}

func ip(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	program, err := lookPath("ip")
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		what := strings.Join(args, " ")
		if stdin != "" {
			what = strings.ReplaceAll(strings.TrimSpace(stdin), "\n", "; ")
		}
		return nil, fmt.Errorf("ip %s: %w: %s", what, err, strings.Join(strings.Fields(stderr.String()), " "))
	}
	return stdout.Bytes(), nil
}
