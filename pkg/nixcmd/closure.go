package nixcmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidwall/gjson"

	"nx/pkg/store"
)

// Closure returns how many paths the closure of p has and the sum of their NAR
// sizes in bytes. p must be valid in the local store.
func (n *Nix) Closure(ctx context.Context, p store.Path) (paths int, narSize int64, err error) {
	out, err := n.output(ctx, "nix", "path-info", "--extra-experimental-features", "nix-command",
		"--json", "--recursive", string(p))
	if err == nil {
		paths, narSize, err = sumPathInfo(out)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("size closure of %s: %w", p, err)
	}
	return paths, narSize, nil
}

// sumPathInfo reads what nix path-info --json prints: a list of objects up to
// Nix 2.18, from 2.19 on an object with paths as its keys.
func sumPathInfo(out []byte) (paths int, narSize int64, err error) {
	if !gjson.ValidBytes(out) {
		return 0, 0, errors.New("nix path-info printed no JSON")
	}
	gjson.ParseBytes(out).ForEach(func(_, info gjson.Result) bool {
		size := info.Get("narSize")
		if size.Type != gjson.Number {
			err = fmt.Errorf("nix path-info printed %.60s without narSize", info.Raw)
			return false
		}
		paths++
		narSize += size.Int()
		return true
	})
	return paths, narSize, err
}
