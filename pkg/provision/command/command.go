// Package command makes resources.commandOutput, as NixOps 2.0 has them: what a script
// prints, for the network to refer to as value. The script is run when it is new or
// another one, by /bin/sh on this computer, with a temporary folder as $out. What it
// prints is in records and in the state, so it must be no secret.
package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"nx/pkg/provision"
)

// Type is that of the resources.
const Type = "commandOutput"

// A Provider runs scripts.
type Provider struct {
	Root string // where they run: the tool's --root
}

// Properties returns the script.
func (*Provider) Properties(t provision.Thing) ([]provision.Property, error) {
	var o struct {
		Name   string  `json:"name"`
		Script *string `json:"script"`
	}
	if err := t.DecodeResource(&o); err != nil {
		return nil, err
	}
	if o.Script == nil && len(t.Config) > 0 {
		return nil, fmt.Errorf("read options: resources.%s has no script", t.Ref)
	}
	return []provision.Property{{Name: "script", Value: o.Script}}, nil
}

// Effect says that a script can be run again.
func (*Provider) Effect(string, json.RawMessage, json.RawMessage) provision.Effect {
	return provision.InPlace
}

// Create runs the script. Its outputs are {"value": what it printed}.
func (p *Provider) Create(ctx context.Context, w *provision.Work) (provision.Facts, error) {
	f, err := p.run(ctx, w)
	if err != nil {
		err = fmt.Errorf("run script of %s: %w%w", w.Ref, err, quietly{provision.ErrNotMade})
	}
	return f, err
}

// quietly has no text of its own in a message.
type quietly struct{ error }

func (quietly) Error() string   { return "" }
func (q quietly) Unwrap() error { return q.error }

// Update runs the script.
func (p *Provider) Update(ctx context.Context, w *provision.Work, _ []provision.Difference) (provision.Facts, error) {
	f, err := p.run(ctx, w)
	if err != nil {
		err = fmt.Errorf("run script of %s: %w", w.Ref, err)
	}
	return f, err
}

func (p *Provider) run(ctx context.Context, w *provision.Work) (provision.Facts, error) {
	var script string
	if err := json.Unmarshal(w.Want["script"], &script); err != nil {
		return provision.Facts{}, errors.New("it has none")
	}
	out, err := os.MkdirTemp("", "nx-output-")
	if err != nil {
		return provision.Facts{}, err
	}
	defer os.RemoveAll(out)
	var said output
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.Root, &said, &complaint
	cmd.Env = append(os.Environ(), "out="+out)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	if len(said.text) > maxOutput {
		return provision.Facts{}, fmt.Errorf("what it prints is longer than %d bytes", maxOutput)
	}
	if err != nil {
		if lines := strings.Split(strings.TrimSpace(complaint.String()), "\n"); lines[0] != "" {
			err = fmt.Errorf("%w: %s", err, lines[len(lines)-1])
		}
		return provision.Facts{}, err
	}
	if !utf8.Valid(said.text) {
		return provision.Facts{}, errors.New("what it prints is no UTF-8")
	}
	outputs, err := json.Marshal(map[string]string{"value": string(said.text)})
	return provision.Facts{ID: w.Name, State: provision.Up, Outputs: outputs}, err
}

// maxOutput is how many bytes a script may print: records have room for no more.
const maxOutput = 256 << 10

// An output keeps what is written to it, and takes no more when that is too long.
type output struct{ text []byte }

func (o *output) Write(b []byte) (int, error) {
	if len(o.text) > maxOutput {
		return 0, errors.New("too long")
	}
	o.text = append(o.text, b...)
	return len(b), nil
}

// Read has nobody to ask: a value is what it was when the script was run, and nowhere
// when it is not remembered.
func (*Provider) Read(_ context.Context, known []provision.Known, tell func(int, provision.Facts, error)) {
	for i, k := range known {
		f := provision.Facts{State: provision.Up}
		if len(k.Outputs) == 0 {
			f.State = provision.Missing
		}
		tell(i, f, nil)
	}
}

// Destroy has nothing to do: the state forgets the value.
func (*Provider) Destroy(context.Context, provision.Known) error { return nil }
