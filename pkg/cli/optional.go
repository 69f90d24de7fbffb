package cli

import "github.com/alecthomas/kong"

// An Optional is a flag whose value may be left out: --flag, or --flag=VALUE.
type Optional struct {
	Given bool
	Value string // "" when it was left out
}

// Decode is called by kong.
func (o *Optional) Decode(ctx *kong.DecodeContext) error {
	o.Given = true
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return nil
	}
	return ctx.Scan.PopValueInto("value", &o.Value)
}

// IsBool tells kong that the flag stands without a value.
func (*Optional) IsBool() bool { return true }
