package activate

import (
	"bytes"
	"log/slog"
	"strings"

	"nx/pkg/record"
)

// maxLine bounds one line; a longer one is cut into several.
const maxLine = 8 << 10

// An output logs what the host's programs print, line by line, and keeps the
// last of it for the record's error.
type output struct {
	log   *slog.Logger
	part  []byte // a line that has not ended
	lines int    // of the host's log; the script puts a bar before each
	kept  []byte // at most record.MaxLog bytes of whole lines
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

// end takes a last line that has no newline, unless the connection broke in it.
func (o *output) end(whole bool) {
	if len(o.part) > 0 && whole {
		o.line(o.part)
	}
	o.part = nil
}

func (o *output) line(b []byte) {
	s := strings.TrimSuffix(strings.ToValidUTF8(string(b), "\uFFFD"), "\r")
	if logged, ok := strings.CutPrefix(s, "|"); ok {
		s = logged
		o.lines++
	}
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
