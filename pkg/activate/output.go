package activate

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"

	"nx/pkg/record"
)

// maxLine bounds one line; a longer one is cut into several.
const maxLine = 8 << 10

// maxFacts bounds what the script may say, in bytes. What it does say is some hundred.
const maxFacts = 1 << 20

// A stdout keeps what the script says, and fails when that is no facts any more.
type stdout struct{ text []byte }

func (s *stdout) Write(p []byte) (int, error) {
	if len(s.text)+len(p) > maxFacts {
		return 0, fmt.Errorf("more than %d bytes of facts", maxFacts)
	}
	s.text = append(s.text, p...)
	return len(p), nil
}

// An output logs what the host's programs print, line by line, and keeps the
// last of it for the record's error.
type output struct {
	log  *slog.Logger
	part []byte // a line that has not ended
	kept []byte // at most record.MaxLog bytes of whole lines
}

func (o *output) Write(p []byte) (int, error) {
	o.part = append(o.part, p...)
	for {
		n := bytes.IndexByte(o.part, '\n')
		switch {
		case n >= 0:
			o.line(o.part[:n])
			o.part = o.part[n+1:]
		case len(o.part) > maxLine:
			o.line(o.part)
			o.part = nil
		default:
			return len(p), nil
		}
	}
}

// end takes a last line that has no newline.
func (o *output) end() {
	if len(o.part) > 0 {
		o.line(o.part)
		o.part = nil
	}
}

func (o *output) line(b []byte) {
	s := strings.TrimSuffix(strings.ToValidUTF8(string(b), "\uFFFD"), "\r")
	o.log.Info("output", "line", s)
	o.kept = append(append(o.kept, s...), '\n')
	if over := len(o.kept) - record.MaxLog; over > 0 {
		o.kept = o.kept[over+bytes.IndexByte(o.kept[over:], '\n')+1:]
	}
}

// tail returns the last lines.
func (o *output) tail() string { return string(o.kept) }

// last returns the last line that says something: switch-to-configuration's own
// last words say only that what it called failed.
func (o *output) last() string {
	last := ""
	for line := range strings.Lines(string(o.kept)) {
		if line = strings.TrimSpace(line); line != "" && line != "Failed to run activate script" && line != "Failed to install bootloader" {
			last = line
		}
	}
	return last
}

// failedUnits returns the units that switch-to-configuration named, the last
// time that it did: "warning: the following units failed: a.service, b.service".
func (o *output) failedUnits() []string {
	const words = "warning: the following units failed: "
	_, list, found := strings.Cut(string(o.kept), words)
	for found {
		var next string
		if _, next, found = strings.Cut(list, words); found {
			list = next
		}
	}
	list, _, _ = strings.Cut(list, "\n")
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
