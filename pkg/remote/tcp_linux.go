package remote

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// quickAck has the kernel acknowledge at once what was just received, and
// returns nil when c is no TCP connection. sshd writes several small messages one
// behind the other, and its kernel holds each back until the one before is
// acknowledged (Nagle's algorithm; sshd switches it off for terminals only). Ours
// would wait 40 ms for something to send with it. The kernel forgets the wish by
// itself, so it is told again after each read (tcp(7)).
func quickAck(c net.Conn) func() {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nil
	}
	return func() {
		// Without it things go on, only slower.
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	}
}

// roundTrip returns the shortest round trip that the kernel has seen on c, 0 when c
// is no TCP connection.
func roundTrip(c net.Conn) (trip time.Duration) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return 0
	}
	raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			trip = time.Duration(info.Min_rtt) * time.Microsecond
		}
	})
	return trip
}
