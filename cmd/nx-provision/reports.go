package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/google/renameio/v2"

	"nx/pkg/cli"
	"nx/pkg/provision"
	"nx/pkg/record"
	"nx/pkg/stream"
)

// A report is a table for people, or records.
type report struct {
	JSON bool `help:"Write records instead of a table."`
}

type plan struct {
	report
	Markdown bool `help:"Write the table in Markdown, for a review."`
	ExitCode bool `help:"Exit with 3 when something would be done."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *plan) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	if err := flags.Network.Check(); err != nil {
		return err
	}
	if err := tableOrRecords(p, c.JSON); err != nil {
		return err
	}
	if c.JSON && c.Markdown {
		return &cli.UsageError{Err: errors.New("--json and --markdown: they contradict each other")}
	}
	pr, done, err := provisioner(ctx, p, flags, false)
	if err != nil {
		return err
	}
	defer done()
	hosts, err := pr.Wanted()
	if err != nil {
		return err
	}
	pending := false
	var steps []provision.Step
	s := p.Produce(record.Provision, hosts)
	if !c.JSON {
		s.Output.Take = func([]*record.Record) error { return printPlan(p.Stdout, steps, c.Markdown) }
	}
	err = stream.Run(ctx, s, func(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
		hosts, err := all(in)
		if err != nil {
			return err
		}
		chosen := map[string]bool{}
		for _, r := range hosts {
			chosen[r.Name()] = true
		}
		if steps, err = pr.Plan(ctx, func(name string) bool { return chosen[name] }, !p.Selects()); err != nil {
			return err
		}
		for _, step := range steps {
			pending = pending || step.Action != provision.Nothing
			r, err := pr.Record(step)
			if err != nil {
				return err
			}
			emit(r)
		}
		return nil
	})
	if err == nil && pending && c.ExitCode {
		return cli.ErrPending
	}
	return err
}

// printPlan writes a line for each step, and one for each property that is to change.
func printPlan(out io.Writer, steps []provision.Step, markdown bool) error {
	t := &table{markdown: markdown, head: []string{"NAME", "ACTION", "PROPERTY", "FROM", "TO"}}
	var pending, unknown, failed, same int
	for _, s := range steps {
		action := string(s.Action)
		switch {
		case s.Err != nil:
			action, s.Why = "error", record.OneLine(s.Err.Error())
			failed++
		case s.Action != provision.Nothing:
			pending++
		case s.Why != "":
			unknown++
		default:
			same++
			continue
		}
		if s.Needs != "" {
			action += " (" + s.Needs + ")"
		}
		if len(s.Properties) == 0 {
			t.row(s.Ref.String(), action, s.Why, "", "")
			continue
		}
		if s.Why != "" {
			t.row(s.Ref.String(), action, s.Why, "", "")
		}
		for i, d := range s.Properties {
			name, what := s.Ref.String(), action
			if i > 0 || s.Why != "" {
				name, what = "", ""
			}
			t.row(name, what, d.Name, provision.Text(d.From), provision.Text(d.To))
		}
	}
	if len(t.rows) > 0 {
		if err := t.write(out); err != nil {
			return err
		}
	}
	summary := fmt.Sprintf("%d to change, %d as they are", pending, same)
	if unknown > 0 {
		summary += fmt.Sprintf(", %d not known yet", unknown)
	}
	if failed > 0 {
		summary += fmt.Sprintf(", %d cannot be said", failed)
	}
	if markdown && len(t.rows) > 0 {
		summary = "\n" + summary
	}
	_, err := fmt.Fprintln(out, summary)
	return err
}

type check struct{ report }

// Run is called by cli.Main after the flags are parsed.
func (c *check) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	return c.run(ctx, p, flags, true, "DRIFT", func(pr *provision.Provisioner, ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
		return pr.Check(ctx, hosts, !p.Selects(), emit)
	})
}

type show struct{ report }

// Run is called by cli.Main after the flags are parsed.
func (c *show) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	return c.run(ctx, p, flags, false, "", func(pr *provision.Provisioner, ctx context.Context, hosts []*record.Record, emit func(*record.Record)) error {
		for _, r := range hosts {
			if err := pr.Show(ctx, r); err != nil {
				r.Fail(record.Provision, err)
			}
			emit(r)
		}
		resources, err := pr.ShowResources(nil)
		for _, r := range resources {
			emit(r)
		}
		return err
	})
}

// run reports of the machines in the state and, when it is named, in the network.
func (c *report) run(ctx context.Context, p *cli.Process, flags *commands, change bool, last string,
	verb func(*provision.Provisioner, context.Context, []*record.Record, func(*record.Record)) error) error {
	if err := tableOrRecords(p, c.JSON); err != nil {
		return err
	}
	pr, done, err := provisioner(ctx, p, flags, change)
	if err != nil {
		return err
	}
	defer done()
	hosts, err := pr.All()
	if err != nil {
		return err
	}
	s := p.Produce(record.Provision, hosts)
	if !c.JSON {
		s.Output.Take = func(hosts []*record.Record) error { return printHosts(p.Stdout, hosts, last) }
	}
	return stream.Run(ctx, s, func(ctx context.Context, in iter.Seq2[*record.Record, error], emit func(*record.Record)) error {
		hosts, err := all(in)
		if err != nil {
			return err
		}
		return verb(pr, ctx, hosts, emit)
	})
}

// printHosts writes what people want to know of hosts and resources at a glance; last
// is the head of one more column, for what is not as it was made, or "".
func printHosts(out io.Writer, records []*record.Record, last string) error {
	t := &table{head: []string{"NAME", "PROVIDER", "STATE", "TARGET", "ID"}}
	if last != "" {
		t.head = append(t.head, last)
	}
	for _, r := range records {
		m := r.Get("machine")
		cells := []string{r.Name(), m.Get("provider").String(), m.Get("state").String(), r.Get("target").Get("host").String(), m.Get("id").String()}
		if r.Kind() == record.KindResource {
			cells[0] = r.Type() + "." + r.Name()
		}
		if last != "" {
			cells = append(cells, drift(r))
		}
		t.row(cells...)
	}
	return t.write(out)
}

// drift is what of a record is not as it was remembered: "size: s-1 is s-2".
func drift(r *record.Record) string {
	var all []string
	for _, d := range r.Get("drift").Array() {
		text := func(key string) string { return provision.Text(json.RawMessage(d.Get(key).Raw)) }
		all = append(all, fmt.Sprintf("%s: %s is %s", d.Get("name").String(), text("from"), text("to")))
	}
	return strings.Join(all, "; ")
}

// A table is text in columns; an empty cell is "-", or is left out in front of a row
// that goes on with the one above.
type table struct {
	markdown bool
	head     []string
	rows     [][]string
}

func (t *table) row(cells ...string) {
	for i, c := range cells {
		if c == "" && cells[0] != "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

func (t *table) write(out io.Writer) error {
	if t.markdown {
		cells := strings.NewReplacer("|", `\|`, "\n", " ")
		for i, row := range append([][]string{t.head}, t.rows...) {
			for j := range row {
				row[j] = cells.Replace(row[j])
			}
			if _, err := fmt.Fprintf(out, "| %s |\n", strings.Join(row, " | ")); err != nil {
				return fmt.Errorf("write table: %w", err)
			}
			if i == 0 {
				fmt.Fprintf(out, "|%s\n", strings.Repeat(" --- |", len(row)))
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i := range row {
			row[i] = record.OneLine(row[i])
		}
		fmt.Fprintln(w, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

type sshConfig struct {
	cli.Files
	KnownHosts string `placeholder:"FILE" help:"Write the host keys to FILE (default: .nx/known_hosts under --root)."`
}

// Run is called by cli.Main after the flags are parsed.
func (c *sshConfig) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	s, show, done, err := c.hosts(ctx, p, flags)
	if err != nil {
		return err
	}
	defer done()
	s.Output.Take = func(hosts []*record.Record) error {
		root, err := filepath.Abs(p.Root)
		if err != nil {
			return err
		}
		file := c.KnownHosts
		if file == "" {
			file = filepath.Join(root, provision.KnownHosts)
		} else if file, err = filepath.Abs(file); err != nil {
			return err
		}
		config, known, err := provision.SSHConfig(root, file, hosts)
		if err != nil {
			return err
		}
		if known != "" {
			if err := renameio.WriteFile(file, []byte(known), 0o644, renameio.WithTempDir(filepath.Dir(file))); err != nil {
				return fmt.Errorf("write host keys: %w", err)
			}
		}
		_, err = io.WriteString(p.Stdout, config)
		return err
	}
	return stream.Each(ctx, s, p.Jobs, show)
}

// hosts are those of the files, else those of the state and the network.
func (c *sshConfig) hosts(ctx context.Context, p *cli.Process, flags *commands) (s *stream.Stream, show func(context.Context, *record.Record) error, done func(), err error) {
	if len(c.Files.Files) > 0 {
		// what the records say of their targets stays: no stage's fields are made anew
		s, err := p.Stream("", c.Files.Files)
		return s, func(context.Context, *record.Record) error { return nil }, func() {}, err
	}
	pr, done, err := provisioner(ctx, p, flags, false)
	if err != nil {
		return nil, nil, nil, err
	}
	hosts, err := pr.All()
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return p.Produce(record.Provision, hosts), pr.Show, done, nil
}
