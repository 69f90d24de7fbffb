//go:build !linux

package remote

import (
	"net"
	"time"
)

// quickAck is for Linux.
func quickAck(net.Conn) func() { return nil }

// pace is for Linux.
func pace(net.Conn) func() { return nil }

// roundTrip is for Linux.
func roundTrip(net.Conn) time.Duration { return 0 }
