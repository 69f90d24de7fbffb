package nixserve

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// DumpNAR writes the NAR of a file, link or folder to w, as "nix-store --dump"
// does. Contents are streamed, through w's ReadFrom if it has one.
func DumpNAR(w io.Writer, path string) error {
	d := dumper{out: encoder{bufio.NewWriterSize(w, 32<<10)}}
	d.out.text(narMagic)
	if err := d.node(path); err != nil {
		return fmt.Errorf("dump NAR: %w", err)
	}
	return d.out.w.Flush()
}

// A dumper's writer keeps its first error, which the end finds.
type dumper struct{ out encoder }

func (d dumper) node(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	d.out.text("(")
	d.out.text("type")
	switch mode := info.Mode(); {
	case mode.IsRegular():
		d.out.text("regular")
		if mode&0o100 != 0 {
			d.out.text("executable")
			d.out.text("")
		}
		d.out.text("contents")
		if err := d.contents(path, info.Size()); err != nil {
			return err
		}
	case mode&os.ModeSymlink != 0:
		link, err := os.Readlink(path)
		if err != nil {
			return err
		}
		d.out.text("symlink")
		d.out.text("target")
		d.out.text(link)
	case mode.IsDir():
		d.out.text("directory")
		entries, err := os.ReadDir(path) // sorted by bytes, as a NAR is
		if err != nil {
			return err
		}
		for _, e := range entries {
			d.out.text("entry")
			d.out.text("(")
			d.out.text("name")
			d.out.text(e.Name())
			d.out.text("node")
			if err := d.node(filepath.Join(path, e.Name())); err != nil {
				return err
			}
			d.out.text(")")
		}
	default:
		return fmt.Errorf("%s is no file, link or folder", path)
	}
	d.out.text(")")
	return nil
}

func (d dumper) contents(path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	d.out.number(uint64(size))
	if size > int64(d.out.w.Available()) {
		// A writer that has nothing left to write lets w read for itself.
		if err := d.out.w.Flush(); err != nil {
			return err
		}
	}
	n, err := d.out.w.ReadFrom(io.LimitReader(f, size))
	if err == nil && n < size {
		err = fmt.Errorf("%s ends after %d of %d bytes: %w", path, n, size, io.ErrUnexpectedEOF)
	}
	d.out.padding(uint64(size))
	return err
}
