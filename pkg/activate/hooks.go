package activate

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/tidwall/gjson"

	"nx/pkg/record"
)

// A hook is a command around an activation, such as one that takes a host out of a
// load balancer: a member of deployment.activation.before, after or onRollback.
type hook struct {
	cmd     check
	onHost  bool // else here
	timeout time.Duration
}

// hookTimeout is how long a hook may take unless it says else.
const hookTimeout = time.Minute

func hooksOf(r *record.Record, when string) (hooks []hook, wrong error) {
	r.Get("deployment").Get("activation." + when).ForEach(func(_, v gjson.Result) bool {
		if v.Type == gjson.String {
			return true // in after: a host that comes first
		}
		c, err := parseCheck("cmd", "", v)
		h := hook{cmd: c, onHost: v.Get("on").String() == "host", timeout: hookTimeout}
		if on := v.Get("on").String(); err == nil && on != "" && on != "host" && on != "deployer" {
			err = fmt.Errorf("on is %q, neither host nor deployer", on)
		}
		if err != nil {
			wrong = fmt.Errorf("%q: %w", "deployment.activation."+when, err)
		}
		if n := v.Get("timeout"); n.Type == gjson.Number && n.Num > 0 {
			h.timeout = time.Duration(n.Num * float64(time.Second))
		}
		h.cmd.timeout = h.timeout
		hooks = append(hooks, h)
		return err == nil
	})
	return hooks, wrong
}

// run runs hooks one after the other, up to the first that fails. Here they have
// the host's name in NX_HOST, its address in NX_TARGET, and the result in NX_RESULT.
func (d *deployment) runHooks(ctx context.Context, when string, hooks []hook, result Result) error {
	for _, h := range hooks {
		d.log.Info("hook", "when", when, "command", h.cmd.description)
		err := d.runHook(ctx, h, result)
		if err != nil {
			return fmt.Errorf("run %q %s: %w", h.cmd.description, when, err)
		}
	}
	return nil
}

func (d *deployment) runHook(ctx context.Context, h hook, result Result) error {
	if h.onHost {
		conn, err := d.dial(ctx, d.to)
		if err != nil && d.to.Previous != nil {
			conn, err = d.dial(ctx, *d.to.Previous)
		}
		if err != nil {
			return err
		}
		defer conn.Close()
		return h.cmd.try(ctx, conn, d.as)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, fmt.Errorf("no end within %v", h.timeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, h.cmd.argv[0], h.cmd.argv[1:]...)
	cmd.Env = append(cmd.Environ(), "NX_HOST="+d.name, "NX_TARGET="+d.to.Host, "NX_RESULT="+string(result))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	said, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(bytes.ToValidUTF8(said, []byte("\uFFFD")))) {
		d.log.Info("output", "line", strings.TrimSuffix(line, "\n"))
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
