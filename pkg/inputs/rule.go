package inputs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// WriteRule writes a rule for make: target depends on the files of inputs, and
// where nothing is, or the entries of a folder matter, on the nearest folder that
// is there, whose time says when that changes. Paths below dir are relative to it.
// A file that is removed later stops no make: each is a target too, of a rule
// without recipe, as with gcc -MP.
func WriteRule(w io.Writer, target string, inputs []Input, dir string) error {
	var names []string
	for _, in := range inputs {
		info, err := os.Stat(in.Path)
		if err == nil && info.IsDir() && !in.List {
			continue // its time says nothing of what it is
		}
		name := existing(in.Path)
		if rel, err := filepath.Rel(dir, name); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			name = rel
		}
		if name, err = escape(name); err != nil {
			return err
		}
		names = append(names, name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	target, err := escape(target)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.WriteString(asTarget(target) + ":")
	for _, name := range names {
		b.WriteString(" \\\n " + name)
	}
	b.WriteString("\n")
	for _, name := range names {
		if name != target {
			b.WriteString("\n" + asTarget(name) + ":\n")
		}
	}
	_, err = w.Write(b.Bytes())
	return err
}

// asTarget keeps make from taking an escaped name for a pattern.
func asTarget(name string) string { return strings.ReplaceAll(name, "%", `\%`) }

// existing returns path or the nearest folder above it that is there.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" {
			return path
		}
		path = filepath.Dir(path)
	}
}

// escape writes a name for make as gcc does (libcpp/mkdeps.cc, munge): a blank
// has a backslash before it and each backslash before that one is doubled, # and
// : have a backslash, $ is doubled. A line's end cannot be written.
func escape(name string) (string, error) {
	if strings.ContainsAny(name, "\n\r") {
		return "", fmt.Errorf("write rule for make: it cannot name %q", name)
	}
	var b strings.Builder
	backslashes := 0
	for _, c := range []byte(name) {
		switch c {
		case ' ', '\t':
			b.WriteString(strings.Repeat(`\`, backslashes+1))
		case '#', ':':
			b.WriteByte('\\')
		case '$':
			b.WriteByte('$')
		}
		if backslashes++; c != '\\' {
			backslashes = 0
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}
