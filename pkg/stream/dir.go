package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"nx/pkg/record"
)

// What the files of an output folder are called behind the host's name. No name of
// one kind is one of the other, whatever hosts are called.
const (
	suffix       = ".jsonl" // the host succeeded
	failedSuffix = ".error" // it has an error
)

// putHost writes a host's one file in the output folder, at once: what was done to one
// host holds, whatever becomes of the others. Of the two names only one is ever there.
func (s *sink) putHost(r *record.Record) error {
	if r.Kind() != record.KindHost {
		return nil
	}
	name, other := suffix, failedSuffix
	if r.Failed() {
		name, other = other, name
	}
	host := filepath.Join(s.dir, r.Name())
	if err := os.Remove(host + other); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what %s was: %w", r.Name(), err)
	}
	return s.replace(host+name, append(bytes.Clone(r.Bytes()), '\n'))
}

// Prune removes from dir, a folder that --out-dir names, the files of hosts that are
// not known: those that left the network. What is no such file is left alone.
func Prune(dir string, known map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			name, ok = strings.CutSuffix(e.Name(), failedSuffix)
		}
		if !ok || known[name] || !isRecordOf(name, filepath.Join(dir, e.Name())) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the file of a host that left: %w", err)
		}
	}
	return nil
}

// isRecordOf tells whether file has one record, that of host.
func isRecordOf(host, file string) bool {
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() || info.Size() > record.MaxLine+1 {
		return false
	}
	line, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	r, err := record.Parse(bytes.TrimSuffix(line, []byte("\n")))
	return err == nil && r.Kind() == record.KindHost && r.Name() == host
}
