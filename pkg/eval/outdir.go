package eval

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"nx/pkg/inputs"
	"nx/pkg/record"
)

// suffix is what the files of a folder of records are called behind the host's name.
const suffix = ".jsonl"

// WriteDir makes dir a folder with a file NAME.jsonl for each host of records
// that has no error, of one line. Files whose bytes would not change are not
// touched, nor is that of a host with an error. The file of a host that is in
// neither records nor names, those of the network, is removed; what is no such
// file is left alone.
func WriteDir(dir string, records []*record.Record, names []string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	known := slices.Clone(names)
	for _, r := range records {
		if r.Kind() != record.KindHost {
			continue
		}
		known = append(known, r.Name())
		if r.Failed() {
			continue
		}
		file := filepath.Join(dir, r.Name()+suffix)
		line := append(bytes.Clone(r.Bytes()), '\n')
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, line) {
			continue
		}
		if err := renameio.WriteFile(file, line, 0o666, renameio.WithExistingPermissions(), renameio.WithTempDir(dir)); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || slices.Contains(known, name) || !wrote(filepath.Join(dir, e.Name()), name) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the file of a host that left: %w", err)
		}
	}
	return nil
}

// wrote tells whether file is one that WriteDir wrote for host.
func wrote(file, host string) bool {
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

// WriteRule writes to file a rule for make: target depends on what was read. Names
// of files below the working directory are relative to it. The file is not touched
// if it says that already.
func WriteRule(file, target string, read []inputs.Input) error {
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	var rule bytes.Buffer
	if err := inputs.WriteRule(&rule, target, read, dir); err != nil {
		return err
	}
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, rule.Bytes()) {
		return nil
	}
	if err := renameio.WriteFile(file, rule.Bytes(), 0o666, renameio.WithExistingPermissions(), renameio.WithTempDir(filepath.Dir(file))); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
