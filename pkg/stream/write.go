package stream

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"nx/pkg/record"
)

// An Output is where records go: Take when it is not nil, File or Dir when it is not
// empty, else Writer.
type Output struct {
	Writer    io.Writer
	File      string
	Dir       string                       // a file for each host, NAME.jsonl or, when it failed, NAME.error
	IfChanged bool                         // leave files untouched whose bytes would not change
	Take      func([]*record.Record) error // gets the records of a whole stream, sorted; nothing is written
}

// A sink takes the lines of one run. Only one goroutine uses it.
type sink struct {
	w         io.Writer
	file      string // the regular file to replace, symlinks followed
	dir       string // the folder of a file for each host
	ifChanged bool
	tool      string
	take      func([]*record.Record) error
	kept      []*record.Record // for a file or take: all of them, to be sorted
}

// open checks that the output can be written, before anything is done.
func (o Output) open() (*sink, error) {
	if o.Take != nil {
		return &sink{take: o.Take}, nil
	}
	if o.Dir != "" {
		if err := os.MkdirAll(o.Dir, 0o777); err != nil {
			return nil, fmt.Errorf("write %s: %w", o.Dir, err)
		}
		if err := unix.Access(o.Dir, unix.W_OK|unix.X_OK); err != nil {
			return nil, fmt.Errorf("write %s: %w", o.Dir, err)
		}
		return &sink{dir: o.Dir, ifChanged: o.IfChanged}, nil
	}
	if o.File == "" {
		return &sink{w: o.Writer}, nil
	}
	// By the name that was given: /dev/stdout leads to what only the kernel can follow.
	switch info, err := os.Stat(o.File); {
	case err == nil && info.IsDir():
		return nil, fmt.Errorf("write %s: it is a folder", o.File)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(o.File, os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", o.File, err)
		}
		return &sink{w: f}, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("write %s: %w", o.File, err)
	}
	path, err := resolve(o.File)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", o.File, err)
	}
	if err := unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK); err != nil {
		return nil, fmt.Errorf("write %s: its folder: %w", o.File, err)
	}
	return &sink{file: path, ifChanged: o.IfChanged}, nil
}

// resolve follows symlinks, also one that points to nothing yet.
func resolve(path string) (string, error) {
	for range 40 {
		link, err := os.Readlink(path)
		if err != nil {
			return path, nil // no symlink, or nothing there
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(path), link)
		}
		path = link
	}
	return "", errors.New("too many symlinks")
}

// put writes or keeps one record.
func (s *sink) put(r *record.Record) error {
	if s.dir != "" {
		return s.putHost(r)
	}
	if s.w == nil {
		s.kept = append(s.kept, r)
		return nil
	}
	return s.line(r.Bytes())
}

func (s *sink) line(b []byte) error {
	_, err := s.w.Write(append(bytes.Clone(b), '\n'))
	return err
}

// begin is the first thing that a tool writes.
func (s *sink) begin(tool string) error {
	s.tool = tool
	if s.w == nil {
		return nil
	}
	return s.line(beginLine(tool))
}

func beginLine(tool string) []byte {
	return fmt.Appendf(nil, `{"nx":%d,"kind":"begin","tool":%q}`, record.Version, tool)
}

// commit ends a whole stream: end is written, or the file replaced when no host
// failed.
func (s *sink) commit(n tally) error {
	failed := n.error()
	end := fmt.Appendf(nil, `{"nx":%d,"kind":"end","hosts":%d,"failed":%d}`, record.Version, n.hosts, n.failed.Len())
	if s.w != nil {
		if err := s.line(end); err != nil {
			return fmt.Errorf("write records: %w", err)
		}
		return failed
	}
	if s.dir != "" || failed != nil && s.take == nil {
		return failed
	}
	slices.SortFunc(s.kept, func(a, b *record.Record) int {
		return cmp.Or(cmp.Compare(a.Kind(), b.Kind()), cmp.Compare(a.Type(), b.Type()),
			cmp.Compare(a.Name(), b.Name()), bytes.Compare(a.Bytes(), b.Bytes()))
	})
	if s.take != nil {
		if err := s.take(s.kept); err != nil {
			return err
		}
		return failed
	}
	var b bytes.Buffer
	b.Write(append(beginLine(s.tool), '\n'))
	for _, r := range s.kept {
		b.Write(append(bytes.Clone(r.Bytes()), '\n'))
	}
	b.Write(append(end, '\n'))
	return s.replace(s.file, b.Bytes())
}

func (s *sink) replace(file string, data []byte) error {
	if s.ifChanged {
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
			return nil
		}
	}
	if err := renameio.WriteFile(file, data, 0o666, renameio.WithExistingPermissions(), renameio.WithTempDir(filepath.Dir(file))); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// A tally is what was written.
type tally struct {
	hosts  int
	failed multierror.Error // *HostError each
}

func (n tally) error() error {
	if n.failed.Len() == 0 {
		return nil
	}
	return &HostsError{Hosts: n.hosts, Failed: &n.failed}
}

// A writer is the one goroutine that writes records, counts them and says which
// hosts failed.
type writer struct {
	stream  *Stream
	sink    *sink
	records chan *record.Record
	quit    chan struct{} // closed by finish
	done    chan struct{} // closed when the last record is written
	tally   tally
	err     error
}

// startWriter writes begin and then what it is sent. When the output is gone it
// stops the stage through stop and drops the rest.
func startWriter(s *Stream, out *sink, stop context.CancelCauseFunc) *writer {
	w := &writer{stream: s, sink: out, records: make(chan *record.Record),
		quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.check(out.begin(s.Tool), stop)
		for {
			select {
			case r := <-w.records:
				w.count(r)
				if w.err == nil {
					w.check(out.put(r), stop)
				}
			case <-w.quit:
				return
			}
		}
	}()
	return w
}

func (w *writer) check(err error, stop context.CancelCauseFunc) {
	if err != nil {
		w.err = fmt.Errorf("write records: %w", err)
		stop(w.err)
	}
}

func (w *writer) count(r *record.Record) {
	if n := len(r.Bytes()); n > record.MaxLine {
		r.Reset(w.stream.Stage)
		r.Fail(w.stream.Stage, fmt.Errorf("write its record: it would have %d bytes, more than %d", n, record.MaxLine))
	}
	name := r.Name()
	switch r.Kind() {
	case record.KindHost:
		w.tally.hosts++
		w.stream.Log.Debug(EventWritten, "host", name)
	case record.KindResource:
		name = r.Type() + "." + name
	default:
		return
	}
	if !r.Failed() {
		return
	}
	multierror.Append(&w.tally.failed, &HostError{name, r.Kind() == record.KindResource, r.FailedStage(), r.Message()})
	if cause := r.Cause(); cause != nil {
		args := []any{"host", name}
		var hint interface{ Hint() string }
		if errors.As(cause, &hint) && hint.Hint() != "" {
			args = append(args, "hint", hint.Hint())
		}
		w.stream.Log.Error(r.Message(), args...)
	}
}

// write hands r over. After finish it is dropped: a reader that is stuck in a
// read while the tool gives up may still come with one.
func (w *writer) write(r *record.Record) {
	select {
	case w.records <- r:
	case <-w.quit:
	}
}

// finish waits until all is written.
func (w *writer) finish() (tally, error) {
	close(w.quit)
	<-w.done
	return w.tally, w.err
}
