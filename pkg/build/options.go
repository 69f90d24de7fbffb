package build

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/tidwall/gjson"

	"nx/pkg/record"
)

// options returns what the host's network says of Nix: deployment.nixConfig, and
// the machines of deployment.machinesFile as the option builders.
func (b *Builder) options(r *record.Record) ([]string, error) {
	deployment := r.Get("deployment")
	set := map[string]string{}
	var err error
	deployment.Get("nixConfig").ForEach(func(name, value gjson.Result) bool {
		if value.Type != gjson.String {
			err = fmt.Errorf("\"deployment.nixConfig\": %q is %.60s, not a string", name.Str, value.Raw)
		}
		set[name.Str] = value.Str
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	if v := deployment.Get("machinesFile"); v.Exists() && v.Type != gjson.Null {
		file := v.Str
		if file == "" {
			return nil, fmt.Errorf("\"deployment.machinesFile\" is %.60s, not a file name", v.Raw)
		}
		if !filepath.IsAbs(file) {
			file = filepath.Join(b.Root, file)
		}
		// Nix reads it, possibly in another folder; one that is not there is none to Nix.
		if file, err = filepath.Abs(file); err == nil {
			_, err = os.Stat(file)
		}
		if err != nil {
			return nil, fmt.Errorf("read machines to build on: %w", err)
		}
		set["builders"] = "@" + file
	}
	var options []string
	for _, name := range slices.Sorted(maps.Keys(set)) { // so that equal ones are equal
		options = append(options, "--option", name, set[name])
	}
	return options, nil
}
