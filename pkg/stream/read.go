package stream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"nx/pkg/record"
)

// An Input is where lines come from.
type Input struct {
	Name    string // "stdin" or the file's name, for messages
	Reader  io.Reader
	Regular bool // a regular file: it is validated whole before anything is done
}

// A source hands each record to take, with the place it came from, and returns
// what ended it too early.
type source func(take func(r *record.Record, at string) error) error

// load reads the regular files whole and returns all inputs in their order.
func (s *Stream) load() ([]source, error) {
	sources := []source{func(take func(*record.Record, string) error) error {
		for _, r := range s.Given {
			if err := take(r, "the network"); err != nil {
				return err
			}
		}
		return nil
	}}
	seen := identities{}
	for _, in := range s.Inputs {
		read := func(take func(*record.Record, string) error) error { return in.read(s.Tool, take) }
		if !in.Regular {
			sources = append(sources, read)
			continue
		}
		var whole []func(take func(*record.Record, string) error) error
		err := read(func(r *record.Record, at string) error {
			whole = append(whole, func(take func(*record.Record, string) error) error { return take(r, at) })
			return seen.add(r, at)
		})
		if err != nil {
			return nil, err
		}
		for _, one := range whole {
			sources = append(sources, one)
		}
	}
	return sources, nil
}

// Read hands each record of the input to take, for what writes no records but
// needs to know what they say. The error is what ended reading too early.
func (s *Stream) Read(ctx context.Context, take func(*record.Record)) error {
	inputs, err := s.load()
	if err != nil {
		return err
	}
	end := make(chan error, 1)
	go func() {
		seen := identities{}
		for _, in := range inputs {
			err := in(func(r *record.Record, at string) error {
				err := seen.add(r, at)
				if err == nil {
					take(r)
				}
				return err
			})
			if err != nil {
				end <- err
				return
			}
		}
		end <- nil
	}()
	select {
	case err := <-end:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// identities are the hosts and resources that were read, and where.
type identities map[record.ID]string

func (seen identities) add(r *record.Record, at string) error {
	if r.Kind() != record.KindHost && r.Kind() != record.KindResource {
		return nil
	}
	if first, ok := seen[r.ID()]; ok {
		return fmt.Errorf("read %s: %s is there already, at %s", at, r.ID(), first)
	}
	seen[r.ID()] = at
	return nil
}

// read parses the input's lines. It follows begin and end, which may stand
// there several times when streams were concatenated: what begins must end.
func (in Input) read(tool string, take func(r *record.Record, at string) error) error {
	lines := bufio.NewReaderSize(in.Reader, 64<<10)
	n := 0        // lines read
	open := false // a begin stands there without its end
	empty := true
	for {
		line, err := readLine(lines)
		if err != nil && err != io.EOF {
			return fmt.Errorf("read %s: line %d: %w", in.Name, n+1, err)
		}
		if len(line) > 0 || err == nil {
			n++
		}
		if len(bytes.TrimSpace(line)) > 0 {
			empty = false
			r, bad := record.Parse(line)
			if bad != nil && open && err == io.EOF {
				return &CutError{in.Name, tool, n - 1} // died in the middle of a line
			}
			if bad != nil {
				return fmt.Errorf("read %s: line %d: %w", in.Name, n, bad)
			}
			switch r.Kind() {
			case record.KindBegin:
				if open {
					return &CutError{in.Name, tool, n - 1}
				}
				open = true
			case record.KindEnd:
				if !open {
					return fmt.Errorf("read %s: line %d: this ends a stream whose beginning is not there", in.Name, n)
				}
				open = false
			default:
				if err := take(r, fmt.Sprintf("%s: line %d", in.Name, n)); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			break
		}
	}
	switch {
	case open:
		return &CutError{in.Name, tool, n}
	case empty:
		return fmt.Errorf("read %s: it is empty: the program before wrote nothing", in.Name)
	}
	return nil
}

// Stdin is the name of the input that is no file.
const Stdin = "stdin"

// A CutError says that a stream ended before its end.
type CutError struct {
	Input string // the input's name
	Tool  string // who read it
	Lines int    // lines that were there
}

func (e *CutError) Error() string {
	if e.Input == Stdin {
		return fmt.Sprintf("stream ends after line %d without its end: the program before %s died", e.Lines, e.Tool)
	}
	return fmt.Sprintf("%s ends after line %d without its end: the program that wrote it died", e.Input, e.Lines)
}

// readLine returns one line without its newline, and io.EOF with the last one,
// which may lack it.
func readLine(b *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := b.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > record.MaxLine+1 {
			return nil, fmt.Errorf("the line is longer than %d bytes", record.MaxLine)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return bytes.TrimSuffix(line, []byte("\n")), err
	}
}
