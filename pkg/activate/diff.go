package activate

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"nx/pkg/record"
)

// A Diff is what a deployment would change on a host: the record's "diff" of a report.
type Diff struct {
	Packages []PackageDiff `json:"packages"`
	Size     int64         `json:"size"`   // bytes by which the closure grows, the sum of NAR sizes
	Before   int64         `json:"before"` // the present closure's size
}

// A PackageDiff is a package whose versions change. Versions are sorted; the list is
// empty where the package is not there.
type PackageDiff struct {
	Name   string   `json:"name"`
	Before []string `json:"before"`
	After  []string `json:"after"`
	Size   int64    `json:"size"` // bytes by which it grows
}

// Diff sets diff on the record: what separates the system that runs from the
// record's, which must be on the host. Packages are told apart as nix-env does: the
// version begins at the first dash that no letter follows.
func (a *Activator) Diff(ctx context.Context, r *record.Record) error {
	path, err := r.StorePath()
	if err != nil {
		return err
	}
	d, err := a.ask(ctx, a.logger(r), r, "closures", string(path))
	if err != nil {
		return err
	}
	if d.facts.has("absent") {
		d.action, d.path = "diff", path
		_, err := d.refused(0)
		return err
	}
	return r.Set("diff", compare(d.facts))
}

// compare compares the two closures that the script tells, path by path.
func compare(fs facts) Diff {
	type versions map[string]bool
	var closures [2]map[string]versions
	var sizes [2]map[string]int64
	var total [2]int64
	for i := range closures {
		closures[i], sizes[i] = map[string]versions{}, map[string]int64{}
	}
	side := -1
	for _, f := range fs {
		switch f[0] {
		case "closure":
			side++
		case "path":
			size, path, _ := strings.Cut(f[1], " ")
			n, err := strconv.ParseInt(size, 10, 64)
			_, base, found := strings.Cut(strings.TrimPrefix(path, "/nix/store/"), "-")
			if err != nil || !found || side < 0 || side > 1 {
				continue
			}
			name, version := splitName(base)
			if closures[side][name] == nil {
				closures[side][name] = versions{}
			}
			closures[side][name][version] = true
			sizes[side][name] += n
			total[side] += n
		}
	}
	diff := Diff{Packages: []PackageDiff{}, Size: total[1] - total[0], Before: total[0]}
	names := maps.Clone(closures[0])
	maps.Copy(names, closures[1])
	for _, name := range slices.Sorted(maps.Keys(names)) {
		before, after := closures[0][name], closures[1][name]
		if maps.Equal(before, after) {
			continue
		}
		list := func(v versions) []string { return append([]string{}, slices.Sorted(maps.Keys(v))...) }
		diff.Packages = append(diff.Packages, PackageDiff{Name: name, Before: list(before), After: list(after), Size: sizes[1][name] - sizes[0][name]})
	}
	return diff
}

// splitName parts a package's name from its version, as builtins.parseDrvName does.
func splitName(s string) (name, version string) {
	for i := 0; i+1 < len(s); i++ {
		if c := s[i+1]; s[i] == '-' && !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
