package closure

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// A spool is a file of bounded size that is written round and round: what is
// newest takes the place of what is oldest. A place in it is a position in all
// that was ever written, so that it is never mistaken for a newer one.
type spool struct {
	f    *os.File
	size int64

	mu   sync.Mutex   // held while head moves and what it made room for is written
	head atomic.Int64 // the position behind the newest
}

// errOverwritten says that what was asked for has made room for newer.
var errOverwritten = errors.New("overwritten in the spool")

// openSpool makes a spool in a folder. The file has no name, so nothing is left of
// it when nx is killed.
func openSpool(dir string, size int64) (*spool, error) {
	f, err := os.CreateTemp(dir, "nx-spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &spool{f: f, size: size}, nil
}

// spoolDir is where large files go that need not outlive a reboot:
// file-hierarchy(7) says /var/tmp, since /tmp may be memory.
func spoolDir() string {
	if dir := os.Getenv("TMPDIR"); filepath.IsAbs(dir) {
		return dir
	}
	return "/var/tmp"
}

// append writes b, in one place, and returns where.
func (s *spool) append(b []byte) (int64, error) {
	n := int64(len(b))
	if n > s.size {
		return 0, errOverwritten
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.head.Load()
	if left := s.size - at%s.size; left < n {
		at += left
	}
	// First the head: who reads what is written over must see that it is.
	s.head.Store(at + n)
	_, err := s.f.WriteAt(b, at%s.size)
	return at, err
}

// read fills b with what was appended at a position.
func (s *spool) read(b []byte, at int64) error {
	if _, err := s.f.ReadAt(b, at%s.size); err != nil {
		return err
	}
	if !s.holds(at) {
		return errOverwritten
	}
	return nil
}

// holds tells whether what was appended at a position is still there.
func (s *spool) holds(at int64) bool { return s.head.Load() <= at+s.size }

func (s *spool) close() error { return s.f.Close() }
