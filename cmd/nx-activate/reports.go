package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/tidwall/gjson"

	"nx/pkg/activate"
	"nx/pkg/cli"
	"nx/pkg/record"
	"nx/pkg/stream"
)

// report is what the verbs have that show something: a table, or records.
type report struct {
	JSON bool `help:"Write records instead of a table."`
}

// run asks each host, and prints the table of all of them at the end.
func (c *report) run(ctx context.Context, p *cli.Process, files []string,
	ask func(context.Context, *record.Record) error, print func(io.Writer, *record.Record)) error {
	if !c.JSON {
		if err := p.Table(); err != nil {
			return err
		}
	}
	s, err := p.Stream(record.Activate, files)
	if err != nil {
		return err
	}
	if !c.JSON {
		s.Output.Take = func(hosts []*record.Record) error {
			w := tabwriter.NewWriter(p.Stdout, 0, 8, 2, ' ', 0)
			print(w, nil)
			for _, r := range hosts {
				if !r.Failed() {
					print(w, r)
				}
			}
			if err := w.Flush(); err != nil {
				return fmt.Errorf("write table: %w", err)
			}
			return nil
		}
	}
	return stream.Each(ctx, s, p.Jobs, ask)
}

// Run is called by cli.Main after the flags are parsed.
func (c *status) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	a, err := flags.plug(p, activate.Activator{})
	if err != nil {
		return err
	}
	return c.run(ctx, p, c.Files.Files, a.Status, func(w io.Writer, r *record.Record) {
		if r == nil {
			fmt.Fprintln(w, "NAME\tUP TO DATE\tRUNS\tBOOTS\tGENERATION\tFAILED UNITS\tLAST DEPLOYMENT")
			return
		}
		s := r.Get("status")
		var units []string
		for _, unit := range s.Get("failedUnits").Array() {
			units = append(units, unit.String())
		}
		last := "-"
		if all := s.Get("deployments").Array(); len(all) > 0 {
			d := all[len(all)-1]
			last = fmt.Sprintf("%s %s %s by %s", d.Get("time").String(), d.Get("action").String(), d.Get("result").String(), d.Get("by").String())
		}
		upToDate := map[bool]string{true: "yes", false: "no"}[s.Get("upToDate").Bool()]
		if s.Get("inWork").Exists() {
			upToDate = "in work"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name(), upToDate, short(s.Get("running").String()), short(s.Get("default").String()),
			or(s.Get("generation").String()), or(strings.Join(units, ",")), last)
	})
}

// Run is called by cli.Main after the flags are parsed.
func (c *generations) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	a, err := flags.plug(p, activate.Activator{})
	if err != nil {
		return err
	}
	return c.run(ctx, p, c.Files.Files, a.Generations, func(w io.Writer, r *record.Record) {
		if r == nil {
			fmt.Fprintln(w, "NAME\tGENERATION\tCURRENT\tMADE\tSYSTEM")
			return
		}
		for _, g := range r.Get("generations").Array() {
			current := map[bool]string{true: "yes", false: "-"}[g.Get("current").Bool()]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Name(), g.Get("generation"), current, g.Get("time"), g.Get("system"))
		}
	})
}

// Run is called by cli.Main after the flags are parsed.
func (c *diff) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	a, err := flags.plug(p, activate.Activator{})
	if err != nil {
		return err
	}
	row := func(w io.Writer, cells ...string) {
		if c.Markdown {
			fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
			return
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return c.run(ctx, p, c.Files.Files, a.Diff, func(w io.Writer, r *record.Record) {
		if r == nil {
			if row(w, "NAME", "PACKAGE", "BEFORE", "AFTER", "BYTES"); c.Markdown {
				row(w, "---", "---", "---", "---", "--:")
			}
			return
		}
		d := r.Get("diff")
		for _, pkg := range d.Get("packages").Array() {
			row(w, r.Name(), pkg.Get("name").String(), versions(pkg.Get("before")), versions(pkg.Get("after")), fmt.Sprintf("%+d", pkg.Get("size").Int()))
		}
		row(w, r.Name(), "all", "-", "-", fmt.Sprintf("%+d", d.Get("size").Int()))
	})
}

// versions are a package's, "-" when it is not there and "yes" when it has none.
func versions(list gjson.Result) string {
	var words []string
	for _, v := range list.Array() {
		if v.String() == "" {
			words = append(words, "yes")
			continue
		}
		words = append(words, v.String())
	}
	return or(strings.Join(words, ", "))
}

// Run is called by cli.Main after the flags are parsed.
func (c *logs) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	a, err := flags.plug(p, activate.Activator{})
	if err != nil {
		return err
	}
	s, err := p.Stream(record.Activate, c.Files.Files)
	if err != nil {
		return err
	}
	s.Output.Take = func([]*record.Record) error { return nil }
	return stream.Each(ctx, s, 1, a.PrintLog(c.Deployment, p.Stdout))
}

// Run is called by cli.Main after the flags are parsed.
func (c *rollback) Run(ctx context.Context, p *cli.Process, flags *commands) error {
	if c.To < 0 {
		return &cli.UsageError{Err: fmt.Errorf("--to=%d: it is no generation", c.To)}
	}
	a, err := flags.plug(p, activate.Activator{Action: activate.Rollback, NoRollback: c.NoRollback, Wait: c.Wait})
	if err != nil {
		return err
	}
	return each(ctx, p, a.RollBack(c.To), c.Files.Files)
}

// short is enough of a store path to tell two apart: its hash's beginning.
func short(path string) string {
	base := strings.TrimPrefix(path, "/nix/store/")
	return or(base[:min(8, len(base))])
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
