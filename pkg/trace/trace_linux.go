//go:build linux && (amd64 || arm64)

package trace

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Supported returns nil if commands can be traced here, else why not.
func Supported() error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with its filter
		listener, err := listen()
		if err == nil {
			err = unix.Close(listener)
		}
		result <- err
	}()
	if err := <-result; err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return nil
}

// Start starts cmd, which has no Dir and whose children are traced with it, and calls saw for each
// access, from one goroutine, while the command waits for it to return: what it
// does after an access, it does after saw has returned. The path is absolute; it
// has symbolic links as the command named them, and ".." where it depends on them
// what that is, and need not exist. flags are those of open(2), or Asked for what was
// only asked for its state; thread is whose access it is.
//
// stop is to be called once cmd.Wait has returned; a child that is left behind
// then gets ENOSYS for what would have been traced. Its error says that accesses
// were missed. Start's error is or wraps ErrUnsupported where nothing can be
// traced; the command was not started then.
//
// The command and its children cannot gain privileges by set-user-ID programs
// (PR_SET_NO_NEW_PRIVS).
func Start(cmd *exec.Cmd, saw func(path string, flags, thread int)) (stop func() error, err error) {
	if cmd.Dir != "" {
		return nil, fmt.Errorf("trace %s: it cannot be started in %s", cmd.Path, cmd.Dir)
	}
	started := make(chan error)
	var t *tracer
	go func() {
		// The filter is this thread's and inherited by what is started from it. The
		// thread ends with the goroutine, since it is never unlocked; Go makes no
		// other threads from a locked one.
		runtime.LockOSThread()
		listener, err := listen()
		if err != nil {
			started <- fmt.Errorf("%w: %w", ErrUnsupported, err)
			return
		}
		t, err = serve(listener, saw)
		if err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		if t != nil {
			return nil, errors.Join(err, t.stop())
		}
		return nil, err
	}
	return t.stop, nil
}

// listen puts the filter on this thread and returns the descriptor that its
// notifications are received by.
func listen() (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("prctl: %w", err)
	}
	program := filter()
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// Without SPEC_ALLOW older kernels make all that the command computes slower.
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, fmt.Errorf("seccomp: %w", errno)
	}
	return int(fd), nil
}

// Offsets in struct seccomp_data.
const (
	offsetNr   = 0
	offsetArch = 4
	offsetArgs = 16
)

// filter notifies of the system calls that read by a path, and of chdir, which
// may follow a link that no later path has. Execve may not be among them, nor may
// the command begin with chdir: Go calls them between vfork and exec, when this
// process may not be able to answer.
func filter() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(how uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | how | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }

	// A program of another architecture is let through to the notification too.
	program := []unix.SockFilter{
		load(offsetArch),
		jump(unix.BPF_JEQ, auditArch, 1, 0),
		ret(unix.SECCOMP_RET_USER_NOTIF),
		load(offsetNr),
	}
	for nr, c := range calls {
		if c.flags < 0 {
			program = append(program,
				jump(unix.BPF_JEQ, uint32(nr), 0, 1),
				ret(unix.SECCOMP_RET_USER_NOTIF))
			continue
		}
		// What is opened to be written is no input. The low half of the argument
		// comes first on the architectures that there are.
		program = append(program,
			jump(unix.BPF_JEQ, uint32(nr), 0, 4),
			load(offsetArgs+8*uint32(c.flags)),
			jump(unix.BPF_JSET, unix.O_ACCMODE|unix.O_CREAT, 1, 0),
			ret(unix.SECCOMP_RET_USER_NOTIF),
			ret(unix.SECCOMP_RET_ALLOW))
	}
	return append(program, ret(unix.SECCOMP_RET_ALLOW))
}

// A call is a system call that reads by a path.
type call struct {
	dir   int // which argument is the directory's descriptor, -1: none
	path  int // which is the path
	flags int // which has the flags to open with, -1: none
	opens bool
}

// struct seccomp_data, struct seccomp_notif and struct seccomp_notif_resp
// (linux/seccomp.h).
type (
	notification struct {
		id    uint64
		pid   uint32
		flags uint32
		nr    int32
		arch  uint32
		ip    uint64
		args  [6]uint64
	}
	response struct {
		id    uint64
		val   int64
		error int32
		flags uint32
	}
)

type tracer struct {
	listener int
	stopping [2]*os.File // a pipe: to close it ends the loop
	done     sync.WaitGroup
	saw      func(path string, flags, thread int)
	missed   error
}

func serve(listener int, saw func(path string, flags, thread int)) (*tracer, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, unix.Close(listener))
	}
	// The command's side and ours take turns: waking one for the other on the same
	// processor halves the cost (Linux 6.6).
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	t := &tracer{listener: listener, stopping: [2]*os.File{r, w}, saw: saw}
	t.done.Go(t.loop)
	return t, nil
}

func (t *tracer) stop() error {
	_ = t.stopping[1].Close()
	t.done.Wait()
	return errors.Join(t.missed, t.stopping[0].Close(), unix.Close(t.listener))
}

func (t *tracer) loop() {
	fds := []unix.PollFd{
		{Fd: int32(t.listener), Events: unix.POLLIN},
		{Fd: int32(t.stopping[0].Fd()), Events: unix.POLLIN},
	}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			t.miss(fmt.Errorf("wait for accesses: %w", err))
			return
		}
		switch {
		case fds[0].Revents&unix.POLLIN != 0:
			t.answer()
		case fds[0].Revents != 0 || fds[1].Revents != 0:
			return // nobody is left to be traced, or nobody is asked for any more
		}
	}
}

// answer takes one notification and lets its system call go on.
func (t *tracer) answer() {
	var n notification
	if err := t.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINTR) { // killed meanwhile
			t.miss(fmt.Errorf("receive access: %w", err))
		}
		return
	}
	if path, flags, err := access(&n); err != nil {
		// Somebody who was killed has read nothing.
		if t.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&n.id)) == nil {
			t.miss(err)
		}
	} else if path != "" {
		t.saw(path, flags, int(n.pid))
	}
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if err := t.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); err != nil && !errors.Is(err, unix.ENOENT) {
		t.miss(fmt.Errorf("answer access: %w", err))
	}
}

func (t *tracer) miss(err error) {
	if t.missed == nil {
		t.missed = err
	}
}

func (t *tracer) ioctl(request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(t.listener), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// access reads what a notification is about. The path is empty where there is
// none, as fstat has none.
func access(n *notification) (path string, flags int, err error) {
	c, ok := calls[int(n.nr)]
	if !ok || n.arch != auditArch {
		return "", 0, fmt.Errorf("process %d is of another architecture", n.pid)
	}
	path, err = readString(int(n.pid), uintptr(n.args[c.path]))
	if err != nil {
		return "", 0, fmt.Errorf("read path that process %d names: %w", n.pid, err)
	}
	if path == "" {
		return "", 0, nil
	}
	if path[0] != '/' {
		dir := "cwd"
		if c.dir >= 0 && int32(n.args[c.dir]) != unix.AT_FDCWD {
			dir = "fd/" + strconv.Itoa(int(int32(n.args[c.dir])))
		}
		base, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", n.pid, dir))
		if err != nil {
			return "", 0, fmt.Errorf("find folder of %q: %w", path, err)
		}
		path = base + "/" + path
	}
	if !strings.Contains(path, "..") {
		path = filepath.Clean(path)
	}
	switch {
	case !c.opens:
		flags = Asked
	case c.flags >= 0:
		flags = int(int32(n.args[c.flags]))
	default: // openat2 has them in memory
		flags = unix.O_DIRECTORY
	}
	return path, flags, nil
}

// readString returns the string at address of a process, without its NUL.
func readString(pid int, address uintptr) (string, error) {
	if address == 0 {
		return "", nil // the call fails by itself
	}
	var text []byte
	buf := make([]byte, 256)
	for len(text) < unix.PathMax {
		// Never across a page: the next one may not be there.
		page := 4096 - int((address+uintptr(len(text)))%4096)
		local := unix.Iovec{Base: &buf[0]}
		local.SetLen(min(len(buf), page))
		n, err := unix.ProcessVMReadv(pid, []unix.Iovec{local},
			[]unix.RemoteIovec{{Base: address + uintptr(len(text)), Len: min(len(buf), page)}}, 0)
		if err != nil {
			return "", err
		}
		if i := bytes.IndexByte(buf[:n], 0); i >= 0 {
			return string(append(text, buf[:i]...)), nil
		}
		text = append(text, buf[:n]...)
	}
	return "", unix.ENAMETOOLONG
}
