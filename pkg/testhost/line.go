package testhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A Line is a long way to a host. What is sent over it, either way, arrives later,
// and no faster than it lets through.
type Line struct {
	Delay time.Duration // of each way: half a round trip
	Rate  int64         // of each way, bits in a second; 0 has no limit
	Queue int           // bytes that wait at most to be let through, the rest is lost; 0 is 1 MiB
}

// lineQueue is what a home router may hold.
const lineQueue = 1 << 20

// Stretch puts a line between the host and its lab. It stays until the host is
// stopped or this process ends; then the host is cut off. The frames are carried
// by this process: the kernel's own netem is a module that not every machine has.
func (h *Host) Stretch(ctx context.Context, line Line) error {
	if err := h.stretch(ctx, line); err != nil {
		return fmt.Errorf("stretch the line to host %s: %w", h.Name, err)
	}
	return nil
}

func (h *Host) stretch(ctx context.Context, line Line) error {
	p, err := h.process("pid1")
	if err != nil {
		return err
	}
	defer p.close()
	if err := unplug(ctx, h.net, h.last); err != nil {
		return err
	}
	near, err := openTAP("", portName(h.net, h.last))
	if err != nil {
		return err
	}
	far, err := openTAP(fmt.Sprintf("/proc/%d/ns/net", p.pid), "eth0")
	if err != nil {
		return errors.Join(err, near.Close())
	}
	go line.carry(near, far)
	go line.carry(far, near)
	if err := ipBatch(ctx, fmt.Sprintf("link set %s master %s up\n", portName(h.net, h.last), bridgeName(h.net))); err != nil {
		return err
	}
	_, err = h.Exec(ctx, fmt.Sprintf("ip link set eth0 address %s up && ip address add %s/24 dev eth0", mac(h.net, h.last), h.Addr))
	return err
}

// openTAP makes an interface in a network namespace, this process's if it is empty,
// whose frames are read from and written to the file. It goes when that is closed,
// and with the namespace.
func openTAP(namespace, name string) (*os.File, error) {
	// The thread is given up with the goroutine: its namespace is another one.
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		fd, err := tap(namespace, name)
		done <- result{fd, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, fmt.Errorf("make interface %s: %w", name, r.err)
	}
	return os.NewFile(uintptr(r.fd), name), nil
}

func tap(namespace, name string) (int, error) {
	// This process's has no name that holds: /proc/self/ns is the first thread's,
	// which may have been the one to be in another.
	if namespace != "" {
		ns, err := os.Open(namespace)
		if err != nil {
			return 0, err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return 0, err
		}
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// A frame is on its way until a time.
type frame struct {
	at   time.Time
	data []byte
}

// carry carries frames one way until one of the ends is gone.
func (l Line) carry(from, to *os.File) {
	defer from.Close()
	defer to.Close()
	queue := l.Queue
	if queue == 0 {
		queue = lineQueue
	}
	way := make(chan frame, 1<<16)
	defer close(way)
	go func() {
		for f := range way {
			time.Sleep(time.Until(f.at))
			to.Write(f.data) // what does not arrive is lost, as on any line
		}
	}()
	buf := make([]byte, 64<<10)
	free := time.Now() // when the line lets the next frame in
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		now := time.Now()
		if free.Before(now) {
			free = now
		}
		if l.Rate > 0 {
			if waiting := free.Sub(now).Seconds() * float64(l.Rate) / 8; waiting > float64(queue) {
				continue // lost
			}
			free = free.Add(time.Duration(float64(n) * 8 / float64(l.Rate) * float64(time.Second)))
		}
		select {
		case way <- frame{free.Add(l.Delay), append([]byte(nil), buf[:n]...)}:
		default: // lost
		}
	}
}
