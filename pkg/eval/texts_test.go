package eval_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"nx/pkg/eval"
	"nx/pkg/network"
	"nx/pkg/nixcmd"
	"nx/pkg/record"
)

// textNetwork has keys with texts, of which one needs what a record knows.
const textNetwork = `{
	defaults.boot.isContainer = true;
	db = { };
	web = { nodes, ... }: { deployment.keys = { url.text = "db://" + nodes.db.config.networking.privateIPv4; a.text = "x"; file.keyFile = "x"; }; };
	mail.deployment.keys.a.text = "y";
	odd.deployment.keys = { a.text = "not for all"; b.text = "not for all" + throw "out of order"; };
	plain.deployment.keys.file.keyFile = "x";
}`

// withKeys is a record as nx-eval writes it.
func withKeys(name, source string) string {
	return fmt.Sprintf(`{"nx":1,"kind":"host","name":%q,"tags":["t"],"deployment":{"keys":{"file":{"source":{"file":"x"}},"a":{"source":{%s}}}}}`, name, source)
}

// A counter counts the evaluators that run.
type counter struct {
	nixcmd.Nix
	mu        sync.Mutex
	processes int
}

func (c *counter) Instantiate(ctx context.Context, args, env []string, line func(string, int), saw func(string, int, int)) (unseen, err error) {
	c.mu.Lock()
	c.processes++
	c.mu.Unlock()
	return c.Nix.Instantiate(ctx, args, env, line, saw)
}

// The texts of all hosts that have such, and were chosen, are evaluated together and
// with what all records know, also those behind them.
func TestTexts(t *testing.T) {
	standIn(t)
	records := parse(t,
		withKeys("web", `"eval":"deployment.keys.url.text"`), withKeys("mail", `"eval":"x"`), withKeys("odd", `"eval":"x"`), withKeys("plain", `"file":"x"`),
		withKeys("gone", `"eval":"x"`), withKeys("left", `"eval":"x"`),
		`{"nx":1,"kind":"host","name":"db","machine":{"privateIPv4":"10.0.0.9"},"error":{"stage":"provision","message":"x"}}`)
	chooses := func(name string, tags []string) bool { return name != "left" && len(tags) == 1 }

	nix := &counter{}
	n := write(t, textNetwork)
	n.Nix, n.Jobs = nix, 1
	texts := (&eval.Evaluator{Network: n}).Texts(t.Context(), chooses)
	defer texts.Close()
	var early sync.WaitGroup
	for i, r := range records {
		texts.Fact(r)
		if i == 0 {
			early.Go(func() {
				if got, err := texts.Of(t.Context(), "web"); err != nil || !maps.Equal(got, map[string]string{"url": "db://10.0.0.9", "a": "x"}) {
					t.Errorf("web: %q, error %v", got, err)
				}
			})
		}
	}
	texts.End(nil)
	early.Wait()
	if got, err := texts.Of(t.Context(), "mail"); err != nil || !maps.Equal(got, map[string]string{"a": "y"}) {
		t.Errorf("mail: %q, error %v", got, err)
	}
	for host, want := range map[string]string{"odd": "out of order", "gone": `no machine "gone"`, "plain": "no key whose contents are in the network",
		"left": "no key whose", "db": "no key whose"} {
		if got, err := texts.Of(t.Context(), host); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "not for all") || got != nil {
			t.Errorf("%s: %q, error %v, want %q", host, got, err, want)
		}
	}
	// What the network is, its texts, and those behind one that ends the evaluator.
	if nix.processes > 3 {
		t.Errorf("%d evaluators", nix.processes)
	}
}

// Who waits for texts that never come is told why.
func TestTextsNever(t *testing.T) {
	cut := errors.New("cut")
	web := parse(t, withKeys("web", `"eval":"x"`))[0]
	all := func(string, []string) bool { return true }
	of := func(ctx context.Context, after func(texts *eval.Texts)) error {
		texts := (&eval.Evaluator{Network: &network.Network{}}).Texts(ctx, all)
		defer texts.Close()
		texts.Fact(web)
		after(texts)
		_, err := texts.Of(ctx, "web")
		return err
	}
	if err := of(t.Context(), func(texts *eval.Texts) { texts.End(cut) }); err != cut {
		t.Errorf("of a stream that was cut: error %v", err)
	}
	if err := of(t.Context(), func(texts *eval.Texts) { texts.End(nil) }); err == nil || !strings.Contains(err.Error(), "no file is named") {
		t.Errorf("of a network that is none: error %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := of(ctx, func(*eval.Texts) { cancel(cut) }); err != cut {
		t.Errorf("of a stream that nobody reads: error %v", err)
	}
}

// With somebody who keeps texts, a host is done when its texts are; one whose texts
// fail has failed.
func TestKeep(t *testing.T) {
	standIn(t)
	var kept map[string]map[string]string
	e := &eval.Evaluator{Network: write(t, textNetwork), Store: &roots{}, RootDir: "drvs", Keep: func(texts map[string]map[string]string) error {
		kept = texts
		return nil
	}}
	all := parse(t, `{"nx":1,"kind":"host","name":"web"}`, `{"nx":1,"kind":"host","name":"odd"}`, `{"nx":1,"kind":"host","name":"plain"}`,
		`{"nx":1,"kind":"host","name":"db","machine":{"privateIPv4":"10.0.0.9"}}`)
	got, err := run(t, e, all, "web", "odd", "plain", "db")
	if err != nil || len(got) != 4 {
		t.Errorf("error %v, got %v", err, got)
	}
	if want := map[string]string{"url": "db://10.0.0.9", "a": "x"}; len(kept) != 1 || !maps.Equal(kept["web"], want) {
		t.Errorf("kept %q, want %q of web", kept, want)
	}
	if got, err := run(t, e, nil); err != nil || len(got) > 0 || kept == nil || len(kept) > 0 {
		t.Errorf("of no hosts: %v, error %v, kept %v", got, err, kept)
	}
	full := errors.New("disk full")
	e.Keep = func(map[string]map[string]string) error { return full }
	if _, err := run(t, e, all[2:3], "plain"); err != full {
		t.Errorf("error %v, want that of who keeps", err)
	}
	for name, line := range got {
		r, err := record.Parse([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if r.Failed() != (name == "odd") || r.Failed() == r.Get("drvPath").Exists() || strings.Contains(line, "not for all") || strings.Contains(line, "db://") {
			t.Errorf("%s", line)
		}
	}
}
