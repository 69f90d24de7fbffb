package eval

import (
	"context"
	"encoding/json"
)

// Query returns the value of a Nix expression about the network, as JSON, with
// what [Evaluator.Fact] was told: see [network.Network.Query].
func (e *Evaluator) Query(ctx context.Context, expression string) (json.RawMessage, error) {
	return e.Network.Query(ctx, expression, e.facts)
}
