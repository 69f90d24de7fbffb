package nixserve

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"nx/pkg/store"
)

// What is read from the other side is bounded, so that bytes that are no Nix
// protocol end in an error instead of in memory. A NixOS closure has some
// thousands of paths; store paths, signatures and content addresses have some
// hundred bytes.
const (
	maxText  = 4 << 10
	maxSigs  = 1 << 10
	maxPaths = 1 << 20
)

// A decoder reads the primitives of the Nix protocols and of NARs: numbers are
// 64 bits, little endian; texts are a length, the bytes, and zeros up to a
// multiple of 8; sets are a count and the elements (Nix' serialise.cc).
//
// The first error stays: after it every method returns a zero value.
type decoder struct {
	r   *bufio.Reader
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) failf(format string, args ...any) { d.fail(fmt.Errorf(format, args...)) }

// full fills b. An end in the middle of a value is io.ErrUnexpectedEOF.
func (d *decoder) full(b []byte) {
	if d.err != nil || len(b) == 0 {
		return
	}
	if _, err := io.ReadFull(d.r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		d.fail(err)
	}
}

func (d *decoder) number() uint64 {
	var b [8]byte
	d.full(b[:])
	if d.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (d *decoder) padding(length uint64) {
	var b [8]byte
	pad := b[:padding(length)]
	d.full(pad)
	for _, c := range pad {
		if c != 0 {
			d.failf("text of %d bytes is not padded with zeros", length)
		}
	}
}

// text reads a text of at most limit bytes.
func (d *decoder) text(limit uint64) string {
	n := d.number()
	if n > limit {
		d.failf("text of %d bytes is longer than %d", n, limit)
	}
	if d.err != nil {
		return ""
	}
	b := make([]byte, n)
	d.full(b)
	d.padding(n)
	if d.err != nil {
		return ""
	}
	return string(b)
}

// texts reads a set of at most limit texts. The count gets no memory before the
// elements came.
func (d *decoder) texts(limit uint64) []string {
	var list []string
	for range d.count(limit) {
		s := d.text(maxText)
		if d.err != nil {
			return nil
		}
		list = append(list, s)
	}
	return list
}

func (d *decoder) paths(limit uint64) []store.Path {
	var list []store.Path
	for range d.count(limit) {
		p := d.path()
		if d.err != nil {
			return nil
		}
		list = append(list, p)
	}
	return list
}

func (d *decoder) count(limit uint64) uint64 {
	n := d.number()
	if n > limit {
		d.failf("set of %d elements is larger than %d", n, limit)
		return 0
	}
	return n
}

func (d *decoder) path() store.Path {
	s := d.text(maxText)
	if d.err != nil {
		return ""
	}
	p, err := store.Parse(s)
	if err != nil {
		d.fail(err)
	}
	return p
}

// optionalPath reads a path for which the empty text stands for none.
func (d *decoder) optionalPath() store.Path {
	s := d.text(maxText)
	if d.err != nil || s == "" {
		return ""
	}
	p, err := store.Parse(s)
	if err != nil {
		d.fail(err)
	}
	return p
}

// infos reads the answer to QueryPathInfos: infos one by one, ended by an empty path.
func (d *decoder) infos() []store.Info {
	var list []store.Info
	for {
		info := store.Info{Path: d.optionalPath()}
		if d.err != nil || info.Path == "" {
			return list
		}
		if len(list) == maxPaths {
			d.failf("more than %d path infos", maxPaths)
			return nil
		}
		info.Deriver = d.optionalPath()
		info.References = d.paths(maxPaths)
		d.number() // download size: the server repeats narSize
		info.NarSize = d.number()
		info.NarHash = d.text(maxText)
		info.CA = d.text(maxText)
		info.Sigs = d.texts(maxSigs)
		if d.err == nil {
			if _, err := decodeHash(info.NarHash); err != nil {
				d.failf("path info of %s: %w", info.Path, err)
			}
		}
		if d.err != nil {
			return nil
		}
		list = append(list, info)
	}
}

// An encoder writes what a decoder reads. Errors stay in the buffered writer
// until its Flush.
type encoder struct{ w *bufio.Writer }

var zeros [8]byte

func (e encoder) number(n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	e.w.Write(b[:])
}

func (e encoder) flag(b bool) {
	if b {
		e.number(1)
	} else {
		e.number(0)
	}
}

func (e encoder) text(s string) {
	e.number(uint64(len(s)))
	e.w.WriteString(s)
	e.padding(uint64(len(s)))
}

func (e encoder) padding(length uint64) { e.w.Write(zeros[:padding(length)]) }

func (e encoder) texts(list []string) {
	e.number(uint64(len(list)))
	for _, s := range list {
		e.text(s)
	}
}

func (e encoder) paths(list []store.Path) {
	e.number(uint64(len(list)))
	for _, p := range list {
		e.text(string(p))
	}
}

// padding returns how many zeros follow a text of that many bytes.
func padding(length uint64) uint64 { return -length & 7 }
