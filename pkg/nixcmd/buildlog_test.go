package nixcmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nx/pkg/store"
)

// logged returns a logger that appends each message to events, as
// "building drv=web.drv built=0", with what is named by a store path's name.
func logged(events *[]string) *slog.Logger { return slog.New(eventHandler{events}) }

type eventHandler struct{ events *[]string }

func (h eventHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h eventHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h eventHandler) WithGroup(string) slog.Handler            { return h }
func (h eventHandler) Handle(_ context.Context, r slog.Record) error {
	s := r.Message
	r.Attrs(func(a slog.Attr) bool {
		value := a.Value.String()
		if p, err := store.Parse(value); err == nil {
			value = p.Name()
		}
		s += fmt.Sprintf(" %s=%s", a.Key, value)
		return true
	})
	*h.events = append(*h.events, s)
	return nil
}

// The logs are what "nix-store --realise --keep-going --log-format internal-json -v"
// of each version wrote, with most byte counts left out: one path is fetched from a
// binary cache, one derivation breaks, another needs it, and two are built.
func TestRecordedLogs(t *testing.T) {
	for _, version := range []string{"2.8.0", "2.26.3"} {
		t.Run(version, func(t *testing.T) {
			f, err := os.Open(filepath.Join("testdata/log", "nix-"+version+".log"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var events []string
			// Of the store behind it nothing is asked.
			b := newBuilds(&Nix{Log: logged(&events), Run: nowhere}, func(drv, _ store.Path, err error) { t.Errorf("done(%s, %v)", drv, err) })
			most := Progress{}
			for lines := bufio.NewScanner(f); lines.Scan(); {
				b.line(t.Context(), lines.Text())
				p := b.tally.progress()
				most.Building, most.Fetching = max(most.Building, p.Building), max(most.Fetching, p.Fetching)
				most.Builds, most.Download = max(most.Builds, p.Builds), max(most.Download, p.Download)
			}
			if want := (Progress{Building: 1, Fetching: 1, Builds: 5, Download: most.Download}); most != want || most.Download < 400_000 || most.Download > 420_000 {
				t.Errorf("at most %+v, want %+v", most, want)
			}
			// The last count of bytes that the recording has.
			want := Progress{Built: 2, Failed: 1, Builds: 2, Fetched: 1, Fetches: 1, Unpacked: 983040, Unpack: 983040}
			if got := b.tally.progress(); got != want {
				t.Errorf("in the end\n got %+v\nwant %+v", got, want)
			}
			for _, want := range []string{
				"fetching path=cached from=file:///var/cache done=0 all=1", "unpacking doneBytes=327680 allBytes=1200120", "fetching done=1 all=1 running=0",
				"building drv=broken.drv done=0", "output drv=broken.drv line=about to break", "building drv=lib.drv done=0 all=2",
				"building done=1 all=2 running=1", "building drv=web.drv done=1 all=2", "building done=2 all=2 running=0",
			} {
				if !slices.ContainsFunc(events, func(e string) bool { return strings.HasPrefix(e, want) }) {
					t.Errorf("events lack %q:\n%s", want, strings.Join(events, "\n"))
				}
			}
			if len(b.reasons) != 1 {
				t.Errorf("reasons %v, want one", b.reasons)
			}
			for drv, reason := range b.reasons {
				if drv.Name() != "broken.drv" || !strings.HasSuffix(reason, "failed with exit code 3") || b.broken[drv].log.String() != "one\nabout to break\n" {
					t.Errorf("%s: %s, log %q", drv, reason, &b.broken[drv].log)
				}
			}
		})
	}
}

// nowhere runs no command.
func nowhere(_ context.Context, argv []string, _, _ io.Writer) error {
	return fmt.Errorf("%s: nothing runs here", argv[0])
}

// A build's log as Nix 2.30 and later write it; older ones are run for real.
func TestBuildLogOfLaterNix(t *testing.T) {
	const drv = "/nix/store/00000000000000000000000000000000-x.drv"
	var got error
	b := newBuilds(&Nix{}, func(_, _ store.Path, err error) { got = err })
	b.wanted[drv] = "/nix/store/00000000000000000000000000000000-x"
	for _, line := range []string{
		`@nix {"action":"start","fields":["` + drv + `","",1,1],"id":7,"level":3,"parent":0,"text":"building","type":105}`,
		`@nix {"action":"result","fields":["\u001b[1mwhat went wrong\u001b[0m"],"id":7,"type":101}`,
		`@nix {"action":"msg","level":0,"msg":"\u001b[31;1merror:\u001b[0m Cannot build '\u001b[35;1m` + drv + `\u001b[0m'.\n       Reason: \u001b[31;1mbuilder failed with exit code 3\u001b[0m.\n       Output paths:","raw_msg":"Cannot build '\u001b[35;1m` + drv + `\u001b[0m'.\nReason: \u001b[31;1mbuilder failed with exit code 3\u001b[0m.\nOutput paths:"}`,
	} {
		b.line(t.Context(), line)
	}
	var e *BuildError
	if want := "build " + drv + ": Cannot build '" + drv + "': builder failed with exit code 3"; !errors.As(got, &e) || e.Error() != want || e.Log() != "what went wrong\n" {
		t.Errorf("error %v, want %s", got, want)
	}
}

// FuzzBuildLog: no line of a log makes the reader panic or report a derivation
// that nobody wanted.
func FuzzBuildLog(f *testing.F) {
	for _, line := range []string{
		`@nix {"action":"start","id":73645804224513,"level":0,"text":"","type":104}`,
		`@nix {"action":"result","fields":[1,5,0,1],"id":73645804224513,"type":105}`,
		`@nix {"action":"start","fields":["/nix/store/vic04254y9v90zapi7g20pg7ld5ffhk9-shared.drv","",1,1],"id":2,"level":3,"parent":0,"text":"","type":105}`,
		`@nix {"action":"msg","column":null,"file":null,"level":0,"line":null,"msg":"","raw_msg":"\u001b[35;1m1\u001b[0m dependencies of derivation '\u001b[35;1m/nix/store/raq28w028pmqz3icvwmdn951ylz2lwva-mid.drv\u001b[0m' failed to build"}`,
		`warning: Nix search path entry '/x' does not exist, ignoring`,
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b := newBuilds(&Nix{}, func(drv, _ store.Path, err error) { t.Errorf("done(%q, %v)", drv, err) })
		for _, line := range strings.Split(text, "\n") {
			b.line(t.Context(), line)
		}
	})
}
