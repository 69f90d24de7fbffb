package stream

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"nx/pkg/record"
)

// A Selection says which hosts of a stream are acted on and written: those that
// a selector chooses and no '!' selector excludes. Without a choosing selector
// it is all but the excluded.
type Selection struct{ terms []term }

// A term is one name, glob or tag, with or without '!'.
type term struct {
	text    string // as the user wrote it
	exclude bool
	tag     bool
	pattern string // path.Match's
}

// ParseSelection reads selectors: names, globs and @tags, separated by commas,
// '!' in front for not. Several selectors are one list.
func ParseSelection(selectors []string) (Selection, error) {
	var s Selection
	for _, selector := range selectors {
		for _, text := range strings.Split(selector, ",") {
			t := term{text: text, pattern: text}
			t.pattern, t.exclude = strings.CutPrefix(t.pattern, "!")
			t.pattern, t.tag = strings.CutPrefix(t.pattern, "@")
			if t.pattern == "" {
				return Selection{}, fmt.Errorf("selector %q has an empty part", selector)
			}
			if _, err := path.Match(t.pattern, ""); err != nil {
				return Selection{}, fmt.Errorf("selector %q: %q is no glob", selector, t.pattern)
			}
			s.terms = append(s.terms, t)
		}
	}
	return s, nil
}

// Empty tells whether nothing was selected, which chooses every host.
func (s Selection) Empty() bool { return len(s.terms) == 0 }

// Chooses tells whether a host of that name and tags is chosen.
func (s Selection) Chooses(name string, tags []string) bool { return s.count().chooses(name, tags) }

// Choose returns the names of the hosts that the selection chooses, and an error
// that names a selector which matches none of them.
func (s Selection) Choose(hosts []*record.Record) (names []string, err error) {
	c := s.count()
	for _, r := range hosts {
		if c.chooses(r.Name(), r.Tags()) {
			names = append(names, r.Name())
		}
	}
	return names, c.unused()
}

// A counter applies a selection and remembers which of its terms matched.
type counter struct {
	terms   []term
	matched []bool
}

func (s Selection) count() *counter {
	return &counter{s.terms, make([]bool, len(s.terms))}
}

func (c *counter) chooses(name string, tags []string) bool {
	all := !slices.ContainsFunc(c.terms, func(t term) bool { return !t.exclude })
	chosen, excluded := all, false
	for i, t := range c.terms {
		if !t.matches(name, tags) {
			continue
		}
		c.matched[i] = true
		if t.exclude {
			excluded = true
		} else {
			chosen = true
		}
	}
	return chosen && !excluded
}

func (t term) matches(name string, tags []string) bool {
	if !t.tag {
		return match(t.pattern, name)
	}
	return slices.ContainsFunc(tags, func(tag string) bool { return match(t.pattern, tag) })
}

// match is path.Match with a pattern that ParseSelection has checked.
func match(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}

func (c *counter) unused() error {
	for i, t := range c.terms {
		if !c.matched[i] {
			return fmt.Errorf("selector %q matches no host", t.text)
		}
	}
	return nil
}
