// Package trace tells which files a command and its children look at, as the
// kernel sees it: every path that they open for reading, ask the state of, or
// read a link of. It works without privileges where Linux has seccomp's user
// notification (Linux 5.5, seccomp_unotify(2)) and nothing forbids it.
//
// It knows nothing of what the command is or what the files are to it.
package trace

import "errors"

// Asked is in place of the flags of open(2) for what was not opened.
const Asked = -1

// ErrUnsupported says that commands cannot be traced here.
var ErrUnsupported = errors.New("no program can see here which files another one reads")
