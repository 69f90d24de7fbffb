package activate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"nx/pkg/keys"
	"nx/pkg/target"
)

// A memory keeps the keys that a reboot of the host loses, as its script packs them.
type memory []byte

// pack takes what the host has of keys in memory, before it reboots.
func (d *deployment) pack(ctx context.Context, conn Conn) (memory, error) {
	if through, _ := d.to.Through(); through != "" {
		d.log.Warn("keys in memory do not survive the reboot", "hint", "install them with nx-copy keys")
		return nil, nil
	}
	var packed bytes.Buffer
	said := &output{log: slog.New(slog.DiscardHandler)}
	status, err := d.call(ctx, conn, &packed, said, "keys_pack", d.path.Base())
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d: %s", status, said.last())
	}
	if err != nil {
		return nil, fmt.Errorf("keep keys for after the reboot: %w", err)
	}
	return packed.Bytes(), nil
}

// unpack brings them back once the host has booted.
func (d *deployment) unpack(ctx context.Context, m memory) error {
	conn, err := d.dial(ctx, d.to)
	if err != nil {
		return err
	}
	defer conn.Close()
	// Not as call does: here stdin is what the script reads.
	argv, password := d.as("/bin/sh", "-c", keys.Script+"\nkeys_unpack "+d.id)
	line, err := target.Quote(argv...)
	if err != nil {
		return err
	}
	said := &output{log: slog.New(slog.DiscardHandler)}
	status, err := conn.Run(ctx, "exec "+line, strings.NewReader(password+"keys\n"+string(m)), io.Discard, said)
	if err == nil && status != 0 {
		err = errors.New(said.last())
	}
	return err
}
