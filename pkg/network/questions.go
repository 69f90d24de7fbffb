package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"unicode/utf8"
)

// Machines returns every machine of the network as Describe does, and no
// resource: what there is to list, and to choose from before any is evaluated.
func (n *Network) Machines(ctx context.Context, facts Facts) ([]Machine, error) {
	s, about, err := n.ready(ctx, facts)
	if err != nil {
		return nil, err
	}
	defer s.close()
	machines, _ := s.describe(ctx, &About{Machines: about.Machines})
	return machines, ctx.Err()
}

// lightly is the answer whose errors are not the last word.
const lightly = "describe"

// describe asks for the machines and resources that about names.
func (s *session) describe(ctx context.Context, about *About) ([]Machine, []Resource) {
	machines, resources := make([]Machine, len(about.Machines)), make([]Resource, len(about.Resources))
	var items, again []item
	index := map[item]int{}
	for i, name := range about.Machines {
		it := item{Kind: "machine", Name: name}
		items, index[it] = append(items, it), i
	}
	for i, r := range about.Resources {
		it := item{Kind: "resource", Type: r.Type, Name: r.Name}
		items, index[it] = append(items, it), i
	}
	var mu sync.Mutex
	take := func(it item, answer []byte, err error) {
		mu.Lock()
		defer mu.Unlock()
		if it.Kind == "resource" {
			r := Resource{Type: it.Type, Name: it.Name, Err: err}
			if err == nil {
				r.Err = json.Unmarshal(answer, &r)
			}
			resources[index[it]] = r
			return
		}
		m := Machine{Name: it.Name, Err: err}
		if err == nil {
			m.Err = json.Unmarshal(answer, &m)
		}
		machines[index[it]] = m
	}
	// Most need none of NixOS' modules to say where they are; those that do are
	// asked again with all of them.
	light := func(it item, answer []byte, err error) {
		if err != nil || string(answer) == "null" {
			again = append(again, it)
			return
		}
		take(it, answer, nil)
	}
	s.ask(ctx, lightly, s.tellKnown(lightly, items, light), light)
	s.askAll(ctx, "describeFully", s.tellKnown("describeFully", again, take), take)
	return machines, resources
}

// secretly is the answer that is written down nowhere: the contents of keys.
const secretly = "texts"

// Texts calls tell for each of the named machines with the contents of those of its
// keys that are in the network, by the keys' names, as soon as it is evaluated, from
// several goroutines, in any order. They come through a pipe and stay in memory. The
// error is for the network as a whole; then machines may be left out.
func (n *Network) Texts(ctx context.Context, names []string, facts Facts, tell func(machine string, texts map[string]string, err error)) error {
	s, about, err := n.ready(ctx, facts)
	if err != nil {
		return err
	}
	defer s.close()
	if s.pure() {
		s.log().Warn("what a flake has is in the Nix store, for all to read: the texts of keys, too", "hint", "let keys come from keyFile or keyCommand")
	}
	items := about.items(names, func(name string, err error) { tell(name, nil, err) })
	s.askAll(ctx, secretly, items, func(it item, answer []byte, err error) {
		var texts map[string]string
		if err == nil && (!utf8.Valid(answer) || json.Unmarshal(answer, &texts) != nil) {
			// What is wrong with them would be in the error of who reads them.
			err = errors.New("evaluate configuration: the texts of deployment.keys are no UTF-8")
		}
		tell(it.Name, texts, err)
	})
	return ctx.Err()
}

// Query returns the value of a Nix expression about the network, as JSON. The
// expression may name nodes, of which nodes.NAME.config is a machine's
// configuration whatever the form, resources and lib; or it is a function of a set
// of these. Its relative paths start at the working directory; about a flake it
// has none. Paths and derivations are text, functions in sets are left out.
func (n *Network) Query(ctx context.Context, expression string, facts Facts) (json.RawMessage, error) {
	s, _, err := n.ready(ctx, facts)
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.expression = expression
	s.limits = s.Network.limits(1)
	var value json.RawMessage
	s.ask(ctx, "", []item{{Kind: "query"}}, func(_ item, answer []byte, failed error) {
		value, err = answer, failed
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && s.flake != "" && relativePath.MatchString(expression) {
		err = &pureError{err}
	}
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", expression, err)
	}
	return value, nil
}

// relativePath matches where an expression seems to name a file by one.
var relativePath = regexp.MustCompile(`(?:^|[\s(\[=;:,])\.{1,2}/`)

// A pureError is that of an expression with a relative path about a flake.
type pureError struct{ cause error }

func (e *pureError) Error() string { return e.cause.Error() }
func (e *pureError) Unwrap() error { return e.cause }
func (e *pureError) Hint() string {
	return "a flake is asked purely: there is no working directory that the expression's paths could start at"
}
