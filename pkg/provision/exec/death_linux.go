package exec

import (
	"runtime"
	"syscall"
)

// dieTogether has a command killed as soon as this process is: who went on alone would
// make what the next run has looked for in vain. The kernel means the thread that
// starts the command (prctl(2), PR_SET_PDEATHSIG), which is kept until release is called.
func dieTogether(attr *syscall.SysProcAttr) (release func()) {
	runtime.LockOSThread()
	attr.Pdeathsig = syscall.SIGKILL
	return runtime.UnlockOSThread
}
