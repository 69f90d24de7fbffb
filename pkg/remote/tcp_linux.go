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
	control := controller(c)
	if control == nil {
		return nil
	}
	return func() {
		// Without it things go on, only slower.
		control(func(fd int) { unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	}
}

// pace returns a function to call before each write, which waits while enough is on
// its way, and nil when c is no TCP connection. What is sent faster than a line takes
// waits in front of it, in a router, together with all else that goes there, and is
// lost when that is full. The kernel finds out by losses, and over and over where
// the window of an ssh channel, two MiB, is less than it would send: then it takes
// the line for idle. (BBR never leaves its startup: of 100 MB over 50 ms and 100
// Mbit/s twelve were sent twice, and some copies stood still for half a second.)
func pace(c net.Conn) func() {
	control := controller(c)
	if control == nil {
		return nil
	}
	var rate uint64 // the highest so far
	return func() {
		for wait := time.Duration(1); wait > 0; time.Sleep(wait) {
			wait = 0
			control(func(fd int) {
				info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
				if err != nil {
					return
				}
				rate = max(rate, info.Delivery_rate)
				onWay := uint64(info.Unacked)*uint64(info.Snd_mss) + uint64(info.Notsent_bytes)
				wait = tooEarly(onWay, rate, time.Duration(info.Min_rtt)*time.Microsecond)
			})
		}
	}
}

// tooEarly returns for how long nothing should be sent over a line that has
// delivered so many bytes a second, when so many are on their way. A line holds
// what it delivers in a round trip; a quarter of that more, and half a MiB, lets the
// rate grow and bridges what the round trip varies by. A quarter of that has to go
// before more is sent, so that one seldom looks, but several times in a round trip: in
// that time the rate doubles while TCP begins, and a line would run dry behind who
// waits for what the old one takes. Next to a host there is nothing to
// fill, and older kernels tell no rate (before 4.9).
func tooEarly(onWay, rate uint64, trip time.Duration) time.Duration {
	if trip < 2*time.Millisecond || rate == 0 {
		return 0
	}
	const more = 512 << 10
	limit := uint64(float64(rate)*trip.Seconds()*1.25) + more
	if onWay <= limit {
		return 0
	}
	return min(trip/8, time.Duration(float64(onWay-limit+more/4)/float64(rate)*float64(time.Second)))
}

// roundTrip returns the shortest round trip that the kernel has seen on c, 0 when c
// is no TCP connection.
func roundTrip(c net.Conn) (trip time.Duration) {
	if control := controller(c); control != nil {
		control(func(fd int) {
			if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				trip = time.Duration(info.Min_rtt) * time.Microsecond
			}
		})
	}
	return trip
}

// controller returns what calls a function with the file descriptor of c, as long as
// that is open. It is nil when c is no TCP connection.
func controller(c net.Conn) func(func(fd int)) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nil
	}
	return func(f func(fd int)) { raw.Control(func(fd uintptr) { f(int(fd)) }) }
}
