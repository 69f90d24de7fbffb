package cli

import (
	"fmt"
	"strings"
	"unicode"
)

// eraseRest erases the line from the cursor on, eraseBelow that and all lines below
// it, cursorUp moves it up by so many (ECMA-48, EL, ED, CUU).
const (
	eraseRest  = "\x1b[K"
	eraseBelow = "\x1b[J"
	cursorUp   = "\x1b[%dA"
)

// A drawing is what stands at the bottom of a terminal, below the messages.
type drawing struct {
	size  func() (columns, rows int)       // of the terminal, which may change
	lines func(columns, rows int) []line   // what is to be seen, no more than rows-1 lines, or 2
	paint func(colour, text string) string // colour is that of a part, "" for none
	drawn string
	ended bool
}

// A line is drawn in parts.
type line []part

// A part of a line has a colour, as ECMA-48's SGR counts them, or "".
type part struct{ text, colour string }

// clear returns what removes the lines.
func (d *drawing) clear() string {
	if d.drawn == "" {
		return ""
	}
	d.drawn = ""
	return "\r" + eraseBelow
}

// draw returns what writes the lines from where the cursor is, each no longer than
// the terminal is wide. The cursor stays at their beginning: what another program
// writes to the terminal takes their place.
func (d *drawing) draw() string {
	if d.ended {
		return ""
	}
	columns, rows := d.size()
	lines := d.lines(columns, rows)
	if len(lines) == 0 {
		return ""
	}
	var b strings.Builder
	for i, l := range lines {
		if i > 0 {
			b.WriteByte('\n')
		}
		for _, p := range l.cut(max(columns-1, 1)) {
			b.WriteString(d.paint(p.colour, p.text))
		}
	}
	b.WriteByte('\r')
	if n := len(lines) - 1; n > 0 {
		fmt.Fprintf(&b, cursorUp, n)
	}
	d.drawn = b.String()
	return d.drawn
}

// redraw returns what brings the terminal from what is drawn to what is to be seen.
func (d *drawing) redraw() string {
	was := d.drawn
	clear := d.clear()
	is := d.draw()
	if is == was {
		return ""
	}
	return clear + is
}

// cut returns as much of the line as fits into so many cells.
func (l line) cut(room int) line {
	wide := 0
	for _, p := range l {
		wide += cells(p.text)
	}
	if wide <= room {
		return l
	}
	room-- // for the mark that something is missing
	var fits line
	for _, p := range l {
		for i, r := range p.text {
			if room -= width(r); room < 0 {
				return append(fits, part{p.text[:i] + "…", p.colour})
			}
		}
		fits = append(fits, p)
	}
	return fits
}

// cells is how wide a terminal draws the text.
func cells(text string) int {
	n := 0
	for _, r := range text {
		n += width(r)
	}
	return n
}

// width is how many cells a terminal gives a character: two to those that East Asian
// Width (Unicode, UAX 11) calls wide, none to what is drawn onto the one before.
func width(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}
