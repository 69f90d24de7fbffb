package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// catch returns a context that the first of INT, TERM and HUP ends, or the end of
// whoever reads out: no further host is started, those in work are finished
// or cleanly left. A second signal exits at once; what runs on a target goes on
// by itself, and leave is called before. A signal that the process was started to
// ignore, as nohup and a shell's background jobs do, stays ignored.
func catch(out *os.File, log *slog.Logger, leave func()) (ctx context.Context, caught func() syscall.Signal, release func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	if out != nil {
		watch(out, cancel)
	}
	var first atomic.Int64
	signals := make(chan os.Signal, 2)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	go func() {
		for s := range signals {
			n, ok := s.(syscall.Signal)
			if !ok {
				continue
			}
			if !first.CompareAndSwap(0, int64(n)) {
				leave()
				os.Exit(128 + int(n))
			}
			log.Warn(fmt.Sprintf("interrupted by %s: what is in work comes to an end first", signalName(n)),
				"hint", "a second signal leaves it; what runs on a host goes on by itself")
			cancel(fmt.Errorf("interrupted by %s", signalName(n)))
		}
	}()
	return ctx, func() syscall.Signal { return syscall.Signal(first.Load()) },
		func() { signal.Stop(signals); cancel(nil) }
}

// watch calls gone when nobody can read what is written to f any more. A tool
// that has nothing to write for an hour would not find out by itself.
func watch(f *os.File, gone func(error)) {
	info, err := f.Stat()
	if err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	go func() {
		for {
			_, err := unix.Poll(fds, -1)
			switch {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return // the next write will tell
			default:
				gone(fmt.Errorf("write records: %w", unix.EPIPE))
				return
			}
		}
	}()
}

// closed tells whether f was closed when the process began: Go's runtime then
// opens /dev/null for reading and writing in its place (runtime.checkfds).
func closed(f *os.File) bool {
	var st, null unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || unix.Stat(os.DevNull, &null) != nil || st.Rdev != null.Rdev || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return false
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_ACCMODE == unix.O_RDWR
}

func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGHUP:
		return "SIGHUP"
	}
	return s.String()
}
