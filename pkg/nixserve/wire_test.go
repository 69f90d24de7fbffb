package nixserve

import (
	"bufio"
	"bytes"
	"math"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"nx/pkg/store"
)

// encoded returns what f writes.
func encoded(f func(encoder)) string {
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	f(encoder{w})
	w.Flush()
	return b.String()
}

func newDecoder(s string) *decoder { return &decoder{r: bufio.NewReader(strings.NewReader(s))} }

func TestPrimitives(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    func(encoder)
		want string
	}{
		{"number", func(e encoder) { e.number(0x0102030405060708) }, "\x08\x07\x06\x05\x04\x03\x02\x01"},
		{"flag", func(e encoder) { e.flag(true) }, "\x01\x00\x00\x00\x00\x00\x00\x00"},
		{"empty text", func(e encoder) { e.text("") }, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"padded text", func(e encoder) { e.text("abc") }, "\x03\x00\x00\x00\x00\x00\x00\x00abc\x00\x00\x00\x00\x00"},
		{"whole text", func(e encoder) { e.text("abcdefgh") }, "\x08\x00\x00\x00\x00\x00\x00\x00abcdefgh"},
		{"set", func(e encoder) { e.texts([]string{"a"}) }, "\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := encoded(tt.f); got != tt.want {
				t.Errorf("\n got %q\nwant %q", got, tt.want)
			}
		})
	}
}

const (
	pathA = store.Path("/nix/store/00000000000000000000000000000000-a")
	pathB = store.Path("/nix/store/11111111111111111111111111111111-b")
	// SHA-256 of "abc" (FIPS 180-2, B.1) in Nix' base 32.
	hashA = "sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s"
)

func encodeInfos(infos []store.Info) string {
	return encoded(func(e encoder) {
		for _, i := range infos {
			e.text(string(i.Path))
			e.text(string(i.Deriver))
			e.paths(i.References)
			e.number(i.NarSize)
			e.number(i.NarSize)
			e.text(i.NarHash)
			e.text(i.CA)
			e.texts(i.Sigs)
		}
		e.text("")
	})
}

func TestInfos(t *testing.T) {
	want := []store.Info{
		{Path: pathA, Deriver: pathB + ".drv", References: []store.Path{pathA, pathB}, NarSize: math.MaxUint64, NarHash: hashA,
			CA: "fixed:r:" + hashA, Sigs: []string{"key-1:AAAA", "key-2:BBBB"}},
		{Path: pathB, NarSize: 120, NarHash: hashA},
	}
	d := newDecoder(encodeInfos(want))
	if got := d.infos(); d.err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("infos (%v)\n got %+v\nwant %+v", d.err, got, want)
	}
}

func TestDecoderRefuses(t *testing.T) {
	huge := encoded(func(e encoder) { e.number(math.MaxUint64) })
	for _, tt := range []struct {
		name    string
		in      string
		read    func(*decoder)
		wantErr string
	}{
		{"end in number", "1234", func(d *decoder) { d.number() }, "unexpected EOF"},
		{"end in text", "\x04\x00\x00\x00\x00\x00\x00\x00ab", func(d *decoder) { d.text(9) }, "unexpected EOF"},
		{"end in padding", "\x04\x00\x00\x00\x00\x00\x00\x00abcd", func(d *decoder) { d.text(9) }, "unexpected EOF"},
		{"padding", "\x04\x00\x00\x00\x00\x00\x00\x00abcd\x00\x00\x00!", func(d *decoder) { d.text(9) }, "not padded with zeros"},
		{"long text", huge, func(d *decoder) { d.text(maxText) }, "text of 18446744073709551615 bytes is longer than 4096"},
		{"large set", huge, func(d *decoder) { d.paths(7) }, "set of 18446744073709551615 elements is larger than 7"},
		{"set that ends early", encoded(func(e encoder) { e.number(maxPaths) }), func(d *decoder) { d.paths(maxPaths) }, "unexpected EOF"},
		{"no store path", encoded(func(e encoder) { e.number(1); e.text("/etc/passwd") }), func(d *decoder) { d.paths(1) }, `"/etc/passwd"`},
		{"no hash", encodeInfos([]store.Info{{Path: pathA, NarHash: "sha256:x"}}), func(d *decoder) { d.infos() }, "path info of " + string(pathA)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDecoder(tt.in)
			tt.read(d)
			if d.err == nil || !strings.Contains(d.err.Error(), tt.wantErr) {
				t.Errorf("error %v, want one with %q", d.err, tt.wantErr)
			}
		})
	}
}

func TestHash(t *testing.T) {
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got, err := hexHash(hashA); got != want || err != nil {
		t.Errorf("hexHash(%q) = %q, %v, want %q", hashA, got, err, want)
	}
	for _, bad := range []string{
		"", "sha256:", "sha1:" + hashA[7:], hashA + "0", hashA[:len(hashA)-1],
		"sha256:e" + hashA[8:], // no digit of Nix' base 32
		"sha256:z" + hashA[8:], // more than 256 bits
	} {
		if got, err := hexHash(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("hexHash(%q) = %q, %v", bad, got, err)
		}
	}
}

// Nix converts hashes as this package does.
func TestHashAsNix(t *testing.T) {
	setup(t)
	nixHash := strings.TrimSuffix(string(installed(t)), "store") + "hash"
	for _, digits := range []string{
		strings.Repeat("0", 64), strings.Repeat("f", 64),
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"0123456789abcdef00112233445566778899aabbccddeeff0f1e2d3c4b5a6978",
	} {
		out, err := exec.Command(nixHash, "--type", "sha256", "--to-base32", digits).Output()
		check(t, err)
		if got, err := hexHash("sha256:" + strings.TrimSpace(string(out))); got != digits {
			t.Errorf("hexHash(%q) = %q, %v, want %q", out, got, err, digits)
		}
	}
}

// What is read is written as the same bytes.
func FuzzInfos(f *testing.F) {
	f.Add([]byte(encodeInfos(nil)))
	f.Add([]byte(encodeInfos([]store.Info{{Path: pathA, Deriver: pathB, References: []store.Path{pathA}, NarSize: 1, NarHash: hashA, CA: "x", Sigs: []string{"y"}}})))
	f.Fuzz(func(t *testing.T, in []byte) {
		d := newDecoder(string(in))
		infos := d.infos()
		if d.err != nil {
			return
		}
		again := newDecoder(encodeInfos(infos)).infos()
		if !reflect.DeepEqual(again, infos) {
			t.Errorf("infos\n got %+v\nwant %+v", again, infos)
		}
	})
}
