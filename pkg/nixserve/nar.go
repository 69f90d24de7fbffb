package nixserve

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// Limits of a NAR. Names and link targets are those of Linux (and of Nix'
// archive.cc since 2.36); a path of 4096 bytes has at most 2048 components.
const (
	maxTag   = 32
	maxName  = 255
	maxLink  = 4095
	maxDepth = 2048
)

const narMagic = "nix-archive-1"

// CopyNAR copies exactly one NAR from src to dst and returns its size in bytes. A
// NAR has no length in front and no mark behind: its structure says where it
// ends, so it is checked on the way, as strictly as "nix-store --restore" does,
// and nothing behind it is read. File contents are streamed; memory is bounded
// whatever src holds. On error, dst may have got a part.
func CopyNAR(dst io.Writer, src *bufio.Reader) (int64, error) {
	count := &counter{w: dst}
	out := bufio.NewWriterSize(count, 64<<10)
	c := narCopier{in: decoder{r: src}, out: encoder{out}}
	c.expect(narMagic)
	c.node(0)
	if err := out.Flush(); err != nil {
		return count.n, err
	}
	if c.in.err != nil {
		return count.n, fmt.Errorf("read NAR: %w", c.in.err)
	}
	return count.n, nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// A narCopier writes what it reads. Encoding is canonical, so that a decoded
// text is written as the bytes it was read from.
type narCopier struct {
	in  decoder
	out encoder
}

func (c *narCopier) text(limit uint64) string {
	s := c.in.text(limit)
	if c.in.err == nil {
		c.out.text(s)
	}
	return s
}

func (c *narCopier) expect(want string) {
	if got := c.text(maxTag); c.in.err == nil && got != want {
		c.in.failf("%q where %q should be", got, want)
	}
}

func (c *narCopier) node(depth int) {
	if depth > maxDepth {
		c.in.failf("folders nested deeper than %d", maxDepth)
	}
	c.expect("(")
	c.expect("type")
	if c.in.err != nil {
		return
	}
	switch kind := c.text(maxTag); kind {
	case "regular":
		c.regular()
	case "symlink":
		c.expect("target")
		if target := c.text(maxLink); c.in.err == nil && (target == "" || strings.Contains(target, "\x00")) {
			c.in.failf("symlink to %q", target)
		}
		c.expect(")")
	case "directory":
		c.directory(depth)
	default:
		c.in.failf("unknown file type %q", kind)
	}
}

func (c *narCopier) regular() {
	tag := c.text(maxTag)
	if tag == "executable" {
		c.expect("")
		tag = c.text(maxTag)
	}
	if tag != "contents" {
		c.in.failf("%q in a file where \"contents\" should be", tag)
	}
	c.contents()
	c.expect(")")
}

func (c *narCopier) contents() {
	size := c.in.number()
	// Larger files exist nowhere, and the padded size must be a number too.
	if size > 1<<62 {
		c.in.failf("file of %d bytes", size)
	}
	if c.in.err != nil {
		return
	}
	c.out.number(size)
	if n, err := io.CopyN(c.out.w, c.in.r, int64(size)); err != nil {
		if err == io.EOF {
			err = fmt.Errorf("file of %d bytes ends after %d: %w", size, n, io.ErrUnexpectedEOF)
		}
		c.in.fail(err)
		return
	}
	c.in.padding(size)
	c.out.padding(size)
}

func (c *narCopier) directory(depth int) {
	last := ""
	for c.in.err == nil {
		switch tag := c.text(maxTag); tag {
		case ")":
			return
		case "entry":
		default:
			c.in.failf("%q in a folder", tag)
			return
		}
		c.expect("(")
		c.expect("name")
		name := c.text(maxName)
		switch {
		case c.in.err != nil:
			return
		case name == "", name == ".", name == "..", strings.ContainsAny(name, "/\x00"):
			c.in.failf("file name %q", name)
			return
		case name <= last:
			c.in.failf("file name %q after %q: names must be sorted", name, last)
			return
		}
		last = name
		c.expect("node")
		c.node(depth + 1)
		c.expect(")")
	}
}
