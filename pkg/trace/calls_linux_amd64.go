package trace

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

var calls = map[int]call{
	unix.SYS_OPEN:       {dir: -1, path: 0, flags: 1, opens: true},
	unix.SYS_OPENAT:     {dir: 0, path: 1, flags: 2, opens: true},
	unix.SYS_OPENAT2:    {dir: 0, path: 1, flags: -1, opens: true},
	unix.SYS_STAT:       {dir: -1, path: 0, flags: -1},
	unix.SYS_LSTAT:      {dir: -1, path: 0, flags: -1},
	unix.SYS_NEWFSTATAT: {dir: 0, path: 1, flags: -1},
	unix.SYS_STATX:      {dir: 0, path: 1, flags: -1},
	unix.SYS_ACCESS:     {dir: -1, path: 0, flags: -1},
	unix.SYS_FACCESSAT:  {dir: 0, path: 1, flags: -1},
	unix.SYS_FACCESSAT2: {dir: 0, path: 1, flags: -1},
	unix.SYS_READLINK:   {dir: -1, path: 0, flags: -1},
	unix.SYS_READLINKAT: {dir: 0, path: 1, flags: -1},
	unix.SYS_CHDIR:      {dir: -1, path: 0, flags: -1},
}
