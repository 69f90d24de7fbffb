//go:build !(linux && (amd64 || arm64))

package trace

import "os/exec"

// Supported returns ErrUnsupported.
func Supported() error { return ErrUnsupported }

// Start returns ErrUnsupported.
func Start(*exec.Cmd, func(path string, flags, thread int)) (stop func() error, err error) {
	return nil, ErrUnsupported
}
