package testhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A host with systemd has a control group of its own, named as its cable: the folder
// nxK.I at the top of this machine's cgroup2 file system (cgroups(7)). Nothing in it
// is limited or counted. It ends when the host is stopped.
func cgroup(k, i int) (string, error) {
	root, err := cgroupRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, portName(k, i)), nil
}

// cgroupRoot returns where the cgroup2 file system is mounted: at /sys/fs/cgroup, or
// below it where the older kind is in use besides.
func cgroupRoot() (string, error) {
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", fmt.Errorf("find control groups: %w", err)
	}
	defer mounts.Close()
	s := bufio.NewScanner(mounts)
	for s.Scan() {
		// fstab(5): device, folder, type, options
		f := strings.Fields(s.Text())
		if len(f) > 3 && f[2] == "cgroup2" && slices.Contains(strings.Split(f[3], ","), "rw") {
			return f[1], nil
		}
	}
	if err := s.Err(); err != nil {
		return "", fmt.Errorf("find control groups: %w", err)
	}
	return "", errors.New("find control groups: no cgroup2 file system is mounted for writing")
}

// removeCgroup removes the control group of port i with all below it, unless it is
// gone, as soon as the host's last process has left it.
func removeCgroup(ctx context.Context, k, i int) error {
	top, err := cgroup(k, i)
	if err != nil {
		return nil // where there are none, none can be left
	}
	for {
		err := removeGroups(top)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func removeGroups(top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove control group: %w", err)
	}
	for _, dir := range slices.Backward(dirs) {
		// The files in it are the kernel's and go with it.
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove control group %s: %w", dir, err)
		}
	}
	return nil
}
