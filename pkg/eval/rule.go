package eval

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"nx/pkg/inputs"
)

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
