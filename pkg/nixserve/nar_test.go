package nixserve

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nar returns the NAR whose texts are words, after its magic.
func nar(words ...string) string {
	return encoded(func(e encoder) {
		e.text(narMagic)
		for _, w := range words {
			e.text(w)
		}
	})
}

func list(parts ...any) []string {
	var words []string
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			words = append(words, p)
		case []string:
			words = append(words, p...)
		}
	}
	return words
}

func file(text string) []string { return list("(", "type", "regular", "contents", text, ")") }

func link(target string) []string { return list("(", "type", "symlink", "target", target, ")") }

func folder(entries ...[]string) []string {
	words := list("(", "type", "directory")
	for _, e := range entries {
		words = append(words, e...)
	}
	return append(words, ")")
}

func entry(name string, node []string) []string {
	return list("entry", "(", "name", name, "node", node, ")")
}

func nested(depth int) []string {
	var words []string
	for range depth {
		words = append(words, "(", "type", "directory", "entry", "(", "name", "d", "node")
	}
	words = append(words, file("")...)
	for range depth {
		words = append(words, ")", ")")
	}
	return words
}

// nars are the cases of the tests here and the seeds of the fuzzing.
var nars = []struct {
	name    string
	nar     string
	wantErr string
	lax     bool // Nix 2.8 takes it; later versions and this package do not
}{
	{name: "file", nar: nar(file("hello")...)},
	{name: "empty file", nar: nar(file("")...)},
	{name: "executable", nar: nar("(", "type", "regular", "executable", "", "contents", "#!", ")")},
	{name: "symlink", nar: nar(link("../x")...)},
	{name: "empty folder", nar: nar(folder()...)},
	{name: "tree", nar: nar(folder(entry(" ", file("x")), entry("B", folder(entry("c", link("/")))), entry("a", file("12345678")))...)},
	{name: "deep", nar: nar(nested(100)...)},

	{name: "empty", nar: "", wantErr: "unexpected EOF"},
	{name: "other magic", nar: encoded(func(e encoder) { e.text("nix-archive-2") }), wantErr: `"nix-archive-2" where "nix-archive-1" should be`},
	{name: "number for magic", nar: encoded(func(e encoder) { e.number(math.MaxUint64) }), wantErr: "longer than 32"},
	{name: "no node", nar: nar("x"), wantErr: `"x" where "(" should be`},
	{name: "no type", nar: nar("(", ")"), wantErr: `")" where "type" should be`, lax: true},
	{name: "unknown type", nar: nar("(", "type", "fifo", ")"), wantErr: `unknown file type "fifo"`},
	{name: "no contents", nar: nar("(", "type", "regular", ")"), wantErr: `")" in a file`, lax: true},
	{name: "second contents", nar: nar("(", "type", "regular", "contents", "x", "contents", "x", ")"), wantErr: `"contents" where ")" should be`, lax: true},
	{name: "executable with a value", nar: nar("(", "type", "regular", "executable", "yes", "contents", "", ")"), wantErr: `"yes" where "" should be`},
	{name: "file cut", nar: nar(file("12345678")...)[:len(nar(file("12345678")...))-20], wantErr: "ends after 4"},
	{name: "file of any size", nar: nar("(", "type", "regular", "contents") + encoded(func(e encoder) { e.number(math.MaxUint64 - 7) }), wantErr: "file of 18446744073709551608 bytes"},
	{name: "padding", nar: strings.Replace(nar(file("hello")...), "hello\x00", "hello!", 1), wantErr: "not padded with zeros"},
	{name: "name with slash", nar: nar(folder(entry("a/b", file("")))...), wantErr: `file name "a/b"`},
	{name: "name with NUL", nar: nar(folder(entry("a\x00b", file("")))...), wantErr: `file name "a\x00b"`},
	{name: "no name", nar: nar(folder(entry("", file("")))...), wantErr: `file name ""`},
	{name: "name dot", nar: nar(folder(entry(".", file("")))...), wantErr: `file name "."`},
	{name: "name dot dot", nar: nar(folder(entry("..", file("")))...), wantErr: `file name ".."`},
	{name: "long name", nar: nar(folder(entry(strings.Repeat("n", 256), file("")))...), wantErr: "longer than 255"},
	{name: "names unsorted", nar: nar(folder(entry("b", file("")), entry("a", file("")))...), wantErr: `file name "a" after "b"`, lax: true},
	{name: "name twice", nar: nar(folder(entry("a", file("")), entry("a", file("")))...), wantErr: `file name "a" after "a"`},
	{name: "entry without node", nar: nar("(", "type", "directory", "entry", "(", "name", "a", ")", ")"), wantErr: `")" where "node" should be`, lax: true},
	{name: "empty target", nar: nar(link("")...), wantErr: `symlink to ""`},
	{name: "target with NUL", nar: nar(link("a\x00b")...), wantErr: `symlink to "a\x00b"`, lax: true},
	{name: "too deep", nar: nar(nested(maxDepth + 1)...), wantErr: "deeper than 2048"},
}

func TestCopyNAR(t *testing.T) {
	const behind = "the next answer"
	for _, tt := range nars {
		t.Run(tt.name, func(t *testing.T) {
			var got bytes.Buffer
			in := tt.nar
			if tt.wantErr == "" {
				in += behind
			}
			src := bufio.NewReader(strings.NewReader(in))
			n, err := CopyNAR(&got, src)
			if tt.wantErr != "" {
				if err == nil || !strings.HasPrefix(err.Error(), "read NAR: ") || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want one with %q", err, tt.wantErr)
				}
				return
			}
			if err != nil || got.String() != tt.nar || n != int64(len(tt.nar)) {
				t.Errorf("copy of %d bytes (%v)\n got %q\nwant %q", n, err, &got, tt.nar)
			}
			if rest, _ := io.ReadAll(src); string(rest) != behind {
				t.Errorf("behind the NAR is %q, want %q", rest, behind)
			}
		})
	}
}

// What this package takes, Nix takes; what Nix refuses, this package refuses.
func TestCopyNARAsNix(t *testing.T) {
	setup(t)
	bin := installed(t)
	for _, tt := range nars {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(string(bin), "--restore", filepath.Join(t.TempDir(), "out"))
			cmd.Stdin = strings.NewReader(tt.nar)
			out, err := cmd.CombinedOutput()
			if taken, want := err == nil, tt.wantErr == "" || tt.lax; taken != want {
				t.Errorf("taken by nix-store --restore: %v, want %v\n%s", taken, want, out)
			}
		})
	}
}

// A writer that fails is told from a NAR that is bad.
func TestCopyNARWriter(t *testing.T) {
	r, w := io.Pipe()
	full := errors.New("no space left")
	r.CloseWithError(full)
	_, err := CopyNAR(w, bufio.NewReader(strings.NewReader(nar(file(strings.Repeat("x", 1<<20))...))))
	if err != full {
		t.Errorf("error %v, want %v", err, full)
	}
}

// A file that says it is large takes no memory.
func TestCopyNARMemory(t *testing.T) {
	head := nar("(", "type", "regular", "contents") + encoded(func(e encoder) { e.number(64 << 20) })
	tail := encoded(func(e encoder) { e.text(")") })
	size := int64(len(head)+len(tail)) + 64<<20
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			zero := io.LimitReader(zeroReader{}, 64<<20)
			n, err := CopyNAR(io.Discard, bufio.NewReader(io.MultiReader(strings.NewReader(head), zero, strings.NewReader(tail))))
			if err != nil || n != size {
				b.Fatalf("copied %d bytes, %v, want %d", n, err, size)
			}
		}
	})
	if got := result.AllocedBytesPerOp(); got > 1<<20 {
		t.Errorf("copying a NAR of %d bytes allocated %d", size, got)
	}
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// What is taken is copied byte for byte and not one byte more is read; a copy is
// taken again.
func FuzzCopyNAR(f *testing.F) {
	for _, tt := range nars {
		if len(tt.nar) < 2000 {
			f.Add([]byte(tt.nar))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		src := bufio.NewReader(bytes.NewReader(in))
		var got bytes.Buffer
		n, err := CopyNAR(&got, src)
		if err != nil {
			return
		}
		if !bytes.Equal(got.Bytes(), in[:n]) {
			t.Errorf("copy\n got %q\nwant %q", got.Bytes(), in[:n])
		}
		if rest, _ := io.ReadAll(src); !bytes.Equal(rest, in[n:]) {
			t.Errorf("behind the NAR is %q, want %q", rest, in[n:])
		}
	})
}
