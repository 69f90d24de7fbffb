package eval

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/tidwall/gjson"

	"nx/pkg/network"
	"nx/pkg/record"
)

// All returns a record for each machine of the network, for when no input names
// them. With tags they carry the tags that the network gives them, as a
// selection by tag needs.
func All(ctx context.Context, n *network.Network, tags bool) ([]*record.Record, error) {
	if tags {
		return records(ctx, n, func(r *record.Record, m network.Machine) error {
			// A machine that cannot be described has no tags; why not is said
			// when it is evaluated.
			return r.AddTags(m.Tags...)
		})
	}
	about, err := n.About(ctx)
	if err != nil {
		return nil, err
	}
	var hosts []*record.Record
	for _, name := range about.Machines {
		r, err := record.NewHost(name)
		if err != nil {
			return nil, fmt.Errorf("list network: %w", err)
		}
		hosts = append(hosts, r)
	}
	return hosts, nil
}

// List returns a record for each machine of the network, with its tags and its
// target, or with the error of one that does not say what these are.
func List(ctx context.Context, n *network.Network) ([]*record.Record, error) {
	return records(ctx, n, func(r *record.Record, m network.Machine) error {
		if m.Err != nil {
			r.Fail(record.Eval, m.Err)
			return nil
		}
		if err := r.AddTags(m.Tags...); err != nil {
			return err
		}
		return mergeTarget(r, m.Target)
	})
}

func records(ctx context.Context, n *network.Network, fill func(*record.Record, network.Machine) error) ([]*record.Record, error) {
	machines, err := n.Machines(ctx, network.Facts{})
	if err != nil {
		return nil, err
	}
	hosts := make([]*record.Record, len(machines))
	for i, m := range machines {
		r, err := record.NewHost(m.Name)
		if err == nil {
			err = fill(r, m)
		}
		if err != nil {
			return nil, fmt.Errorf("list network: %w", err)
		}
		hosts[i] = r
	}
	return hosts, nil
}

// mergeTarget gives r what the network says of its target. What the stream says
// wins, field by field.
func mergeTarget(r *record.Record, said json.RawMessage) error {
	user := r.Get("target").Get("user")
	if !user.Exists() {
		user = gjson.GetBytes(said, "user")
	}
	var target []record.Member
	gjson.ParseBytes(said).ForEach(func(k, v gjson.Result) bool {
		if k.Str == "sudo" && (user.Str == "root" || user.Str == "") {
			return true // root, also where nobody is named, has no use for it
		}
		if !r.Get("target").Get(k.Str).Exists() {
			target = append(target, record.Member{Key: k.Str, Value: json.RawMessage(v.Raw)})
		}
		return true
	})
	return r.Merge("target", target...)
}
