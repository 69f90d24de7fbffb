package activate

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"nx/pkg/record"
	"nx/pkg/store"
	"nx/pkg/target"
)

// maxAttempt bounds one attempt to reach a host: a route that is gone is silent,
// and the next attempt may take another one.
const maxAttempt = 15 * time.Second

// bootTime is how long a host may take from its decision to reboot until it answers.
const bootTime = 5 * time.Minute

// pause is between two attempts.
const pause = 500 * time.Millisecond

// last is the id of the host's last deployment, whichever that is.
const last = "last"

// A deployment is one activation of one host, as its deployer sees it: what it
// has heard so far, over whichever connection.
type deployment struct {
	a          *Activator
	log        *slog.Logger
	id         string
	name       string // of the host, for hooks
	to         target.Target
	local      func() Conn // when it is this machine
	with       settings
	before     []check           // must hold before anything is changed
	hooks      map[string][]hook // by when they run
	health     []check           // must hold of the new system
	action     Action
	path       store.Path
	generation int  // of the profile to go back to; 0 for a new one of path
	keys       bool // whether keys were staged, or none is declared
	keyless    bool // none is declared

	facts   facts
	journal bool // what is heard now are lines of the journal
	lines   int  // of the journal that were heard
	bytes   int
	part    []byte             // a line that has not ended
	enough  context.CancelFunc // ends the call that is heard
	said    *output

	proof  sync.WaitGroup
	until  time.Time // when checks must be through; zero for a while from now
	mu     sync.Mutex
	checks []Check            // how they came out, under mu
	moved  context.CancelFunc // ends the proof of life that is in work
	ctx    context.Context
}

func (a *Activator) deployment(log *slog.Logger, r *record.Record, id string) (*deployment, error) {
	t, err := r.Target()
	if err != nil {
		return nil, err
	}
	with, err := settingsOf(r)
	if err != nil {
		return nil, err
	}
	with.rollback = with.rollback && !a.NoRollback
	d := &deployment{a: a, log: log, id: id, to: t, with: with, said: &output{log: log}, moved: func() {}}
	if t.Host == "localhost" && r.Get("deployment").Get("allowLocalDeployment").Bool() {
		d.local = a.Local
	}
	if d.before, err = checksOf(r, "preDeployChecks", t.Host); err != nil {
		return nil, err
	}
	if d.health, err = checksOf(r, "healthChecks", t.Host); err != nil {
		return nil, err
	}
	staged := r.Get("copied").Get("keys")
	d.keys, d.keyless = staged.IsArray(), len(staged.Array()) == 0
	d.name, d.hooks = r.Name(), map[string][]hook{}
	for _, when := range []string{"before", "after", "onRollback"} {
		if d.hooks[when], err = hooksOf(r, when); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// connect reaches the host where it is, or where it was before this deployment.
func (d *deployment) connect(ctx context.Context) (Conn, error) {
	if d.local != nil {
		d.log.Info("connecting", "target", d.to.Host)
		return d.local(), nil
	}
	conn, _, err := target.Reach(ctx, d.log, d.to, d.a.Dial)
	return conn, err
}

// call runs a verb of the script on the host.
func (d *deployment) call(ctx context.Context, conn Conn, stdout, stderr io.Writer, words ...string) (int, error) {
	program, stdin := []string{"/bin/sh", "-c", start, "nx-activate"}, mark+"\n"+packed()
	if words[0] == "contact" || words[0] == "refuse" {
		// What waits for it is there, and a long line is spared a round trip.
		kept := "/var/lib/nx/deployments/" + d.id
		if d.id == last {
			kept = "/var/lib/nx/last"
		}
		program, stdin = []string{"/bin/sh", kept + "/activate.sh"}, ""
	}
	argv, password := d.as(slices.Concat(program, words)...)
	line, err := target.Quote(argv...)
	if err != nil {
		return 0, err
	}
	through, err := d.to.Through(words...) // without nx-switch the script says who it is
	if err != nil {
		return 0, err
	}
	return conn.Run(ctx, through+"exec "+line, strings.NewReader(password+stdin), stdout, stderr)
}

// as is argv as root on the host, and what is to be said first on its stdin.
func (d *deployment) as(argv ...string) (as []string, password string) {
	as = d.to.As(argv...)
	if len(as) == len(argv) || d.a.SudoPassword == "" || path.Base(as[0]) != "sudo" {
		return as, ""
	}
	// sudo(8): read it from stdin, and print no prompt
	return slices.Concat(as[:1], []string{"-S", "-p", ""}, as[1:]), d.a.SudoPassword + "\n"
}

// hear runs a verb that says facts.
func (d *deployment) hear(ctx context.Context, conn Conn, words ...string) (int, error) {
	d.journal, d.part = false, nil
	ctx, d.enough = context.WithCancel(ctx)
	defer d.enough()
	status, err := d.call(ctx, conn, d, d.said, words...)
	d.said.end(err == nil)
	return status, err
}

// run starts the deployment over conn and follows it to its end, over other
// connections when that one breaks.
func (d *deployment) run(ctx context.Context, conn Conn) (Activation, error) {
	d.begin(ctx)
	defer d.end()
	for {
		words := slices.Concat([]string{"start", d.id}, d.what(), []string{
			"by=" + record.OneLine(d.a.By), "reboot=" + string(d.a.Reboot)}, d.with.words())
		if d.a.Keep != "" {
			words = append(words, "keep="+d.a.Keep)
		}
		if d.generation > 0 {
			words = append(words, fmt.Sprintf("to=%d", d.generation))
		}
		status, err := d.hear(ctx, conn, words...)
		switch {
		case d.facts.has("busy"):
			again, err := d.queue(ctx)
			if err != nil {
				return Activation{}, err
			}
			if again {
				continue
			}
			return d.attach(ctx)
		case d.action == DryActivate && err != nil:
			return Activation{}, &failure{verb: verb(d.action, d.path), cause: err.Error(), log: d.said.tail(), err: err}
		case d.ended() || err == nil && !d.journal:
			if err == nil && (status != 0 || !d.facts.has("running")) {
				return d.refused(status)
			}
			return judge(d.action, d.path, d.facts, d.said)
		}
		return d.follow(ctx, err)
	}
}

// what is to be activated, in the script's words.
func (d *deployment) what() []string {
	words := []string{"action=" + string(d.action), "system=" + string(d.path), "root=" + d.path.StagedRoot(), "special=" + d.a.Specialisation}
	switch {
	case !d.keys || d.generation > 0: // left as they are
	case d.keyless:
		words = append(words, "keys=none")
	default:
		words = append(words, "keys="+d.path.Base())
	}
	return words
}

// settled tells whether the host has nothing to do, as far as can be seen now.
func (d *deployment) settled(ctx context.Context, conn Conn) (bool, error) {
	defer d.forget(d.id)
	_, err := d.hear(ctx, conn, append([]string{"peek"}, d.what()...)...)
	return d.facts.has("unchanged"), err
}

// queue looks at who is in work on the host. The same system, of a deployer that
// is gone or not, is followed; another one is waited for where that is wanted.
func (d *deployment) queue(ctx context.Context) (again bool, err error) {
	by := fmt.Sprintf("%s %s by %s", d.facts.value("busy-action"), d.facts.value("busy-system"), d.facts.value("busy-by"))
	if at, err := strconv.ParseInt(d.facts.value("busy-at"), 10, 64); err == nil {
		by += " since " + time.Unix(at, 0).UTC().Format(time.RFC3339)
	}
	other := d.facts.value("busy")
	same := d.facts.value("busy-action") == string(d.action) && d.facts.value("busy-system") == string(d.path)
	if !same && !d.a.Wait || other == "" {
		return false, &failure{verb: verb(d.action, d.path), cause: "another deployment is in work on the host: " + by,
			hint: "wait for it with --wait, or follow it with nx-activate attach"}
	}
	d.log.Info("waiting for another deployment", "deployment", by)
	if same {
		d.forget(other)
		return false, nil
	}
	// Only looked at: it is another deployer's to prove that the host lives.
	behind := &deployment{a: d.a, log: slog.New(slog.DiscardHandler), id: other, to: d.to, with: d.with, said: &output{log: slog.New(slog.DiscardHandler)},
		moved: func() {}, action: Action(d.facts.value("busy-action")), path: store.Path(d.facts.value("busy-system"))}
	if got, err := behind.watch(ctx); got.Result == Unknown {
		return false, err
	}
	d.forget(newID(time.Now()))
	return true, nil
}

// forget makes it a deployment of which nothing was heard yet.
func (d *deployment) forget(id string) {
	d.id, d.facts, d.journal, d.lines, d.part = id, nil, false, 0, nil
	d.said = &output{log: d.log}
}

// attach follows a deployment that is in work on the host or was.
func (d *deployment) attach(ctx context.Context) (Activation, error) {
	d.begin(context.WithoutCancel(ctx))
	defer d.end()
	return d.follow(d.ctx, nil)
}

// watch follows without a proof of life.
func (d *deployment) watch(ctx context.Context) (Activation, error) {
	d.begin(ctx)
	d.ctx = nil
	return d.follow(ctx, nil)
}

// follow hears the deployment to its end, over connection after connection, after
// one was lost by the cause. It gives up when the host was not reached for as long
// as it may take to decide and reboot.
func (d *deployment) follow(ctx context.Context, cause error) (Activation, error) {
	lost := time.Now()
	for tries := 0; !d.ended(); tries++ {
		if cause != nil {
			d.log.Debug("lost the connection", "cause", cause.Error())
		}
		if time.Since(lost) > d.patience() || d.bytes > maxFacts {
			return d.unknown(cause)
		}
		if tries > 0 {
			if err := wait(ctx, pause); err != nil {
				return d.unknown(err)
			}
		}
		to := d.to
		if d.to.Previous != nil && tries%2 == 1 {
			to = *d.to.Previous
		}
		conn, err := d.dial(ctx, to)
		if err != nil {
			cause = err
			continue
		}
		status, err := d.hear(ctx, conn, "attach", d.id, strconv.Itoa(d.lines+1), strconv.Itoa(d.said.lines+1))
		conn.Close()
		if d.id == last && d.journal {
			d.id, d.action, d.path = d.facts.first("deployment"), Action(d.facts.first("action")), store.Path(d.facts.first("system"))
		}
		switch {
		case err == nil && status == stopping:
			cause = errors.New("it is shutting down")
		case d.facts.has("none"):
			return Activation{}, errors.New("attach to the last deployment: the host has had none")
		case err == nil && !d.journal && !d.facts.has("withdrawn"):
			return d.refused(status)
		case d.facts.has("withdrawn"):
			f := &failure{verb: verb(d.action, d.path), log: d.said.tail(), err: cause}
			if f.cause = "the host did not begin it, and nothing was changed" + because(d.said.last()); cause != nil {
				f.cause = fmt.Sprintf("the connection was lost before the host began, and nothing was changed: %v", cause)
			}
			return Activation{Result: Failed}, f
		case err != nil:
			cause = err
		case status != 0:
			cause = fmt.Errorf("exit status %d: %s", status, d.said.last())
		default:
			cause = errors.New("its supervisor on the host ended")
		}
		if d.journal { // it was reached, and something was heard
			lost = time.Now()
		}
	}
	return judge(d.action, d.path, d.facts, d.said)
}

func (d *deployment) patience() time.Duration {
	if d.a.Patience > 0 {
		return d.a.Patience
	}
	return 2*time.Duration(d.with.switchTimeout+d.with.confirmTimeout)*time.Second + time.Duration(d.with.settleTime)*time.Second + bootTime
}

func (d *deployment) unknown(cause error) (Activation, error) {
	return Activation{Result: Unknown, Previous: d.facts.previous(d.action)}, &failure{
		verb: verb(d.action, d.path), log: d.said.tail(), err: cause,
		cause: fmt.Sprintf("nobody knows how it ended: %v", cause),
		hint:  "the host decides by itself; nx-activate attach, with the same records, tells when it can be reached again",
	}
}

// dial makes a connection of its own, within maxAttempt.
func (d *deployment) dial(ctx context.Context, to target.Target) (Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, maxAttempt, fmt.Errorf("no answer within %v", maxAttempt))
	defer cancel()
	if d.local != nil {
		return d.local(), nil
	}
	return d.a.Dial(ctx, to)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *deployment) begin(ctx context.Context) { d.ctx = ctx }

// end ends what is still being proved.
func (d *deployment) end() {
	d.moved()
	d.proof.Wait()
}

func (d *deployment) ended() bool { return d.facts.has("end") }

// maxFacts bounds what the script may say, in bytes. What it does say is some hundred.
const maxFacts = 1 << 20

// Write hears the script's stdout.
func (d *deployment) Write(p []byte) (int, error) {
	if d.bytes += len(p); d.bytes > maxFacts {
		return 0, fmt.Errorf("more than %d bytes of facts", maxFacts)
	}
	d.part = append(d.part, p...)
	for {
		line, rest, found := bytes.Cut(d.part, []byte("\n"))
		if !found {
			return len(p), nil
		}
		d.part = rest
		d.heard(string(line))
	}
}

// heard takes one line. A connection that breaks within a line is said all of it again.
func (d *deployment) heard(line string) {
	word, value, _ := strings.Cut(line, " ")
	d.facts = append(d.facts, [2]string{word, value})
	if word == "deployment" {
		d.journal = true
		return
	}
	if !d.journal {
		return
	}
	d.lines++
	if d.ctx == nil {
		return
	}
	d.announce(word, value)
	switch word {
	case "confirming":
		d.moved()
		d.until = time.Now().Add(time.Duration(d.with.confirmTimeout) * time.Second * 2 / 3)
		var ctx context.Context
		ctx, d.moved = context.WithCancel(d.ctx)
		d.proof.Go(func() { d.prove(ctx, value) })
	case "contact", "settled", "rolling-back", "rebooting", "end":
		d.moved()
	}
	// Of a failure all is heard that the host still says; of a success its goodbye
	// would only take a round trip more.
	if word == "end" && d.facts.has("done") && !d.facts.has("rolling-back") {
		d.enough()
	}
}

// stopping is the status of activate.sh on a host that shuts down: it may be asked again.
const stopping = 75

// steps are those that take long, or are a turn, with what their value says.
var steps = map[string]string{
	"testing": "seconds", "confirming": "round", "committing": "before", "rolling-back": "cause", "rebooting": "boot", "resuming": "boot",
}

// announce logs a step; those that matter less as a detail.
func (d *deployment) announce(word, value string) {
	key, matters := steps[word]
	level := slog.LevelInfo
	if !matters {
		level, key = slog.LevelDebug, "value"
	}
	if value == "" { // as of the first generation: before it there was none
		d.log.Log(d.ctx, level, word)
		return
	}
	d.log.Log(d.ctx, level, word, key, value)
}

// prove reaches the host over a new connection and tells it so, again and again
// until the host has heard it or goes on. In round 1 the new system must be
// reached where it is to be reached from now on; in round 2, anywhere.
func (d *deployment) prove(ctx context.Context, round string) {
	for tries := 0; ; tries++ {
		to := d.to
		if round != "1" && to.Previous != nil && tries%2 == 1 {
			to = *to.Previous
		}
		err := d.contact(ctx, to, round)
		if err == nil || ctx.Err() != nil {
			return
		}
		d.log.Debug("not reached", "cause", err.Error())
		if wait(ctx, pause) != nil {
			return
		}
	}
}

func (d *deployment) contact(ctx context.Context, to target.Target, round string) error {
	conn, err := d.dial(ctx, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	words := []string{"contact", d.id, round}
	if round == "1" && len(d.health) > 0 {
		if bad := d.check(ctx, conn, d.health); bad != "" {
			words = []string{"refuse", d.id, round, bad}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, maxAttempt)
	defer cancel()
	said := &output{log: slog.New(slog.DiscardHandler)}
	status, err := d.call(ctx, conn, said, io.Discard, words...)
	switch {
	case err != nil:
	case status != 0:
		err = fmt.Errorf("exit status %d", status)
	case words[0] == "contact" && said.last() != "contact":
		err = fmt.Errorf("the host says %q", said.last()) // that we are not root there, or no more
	}
	return err
}

// afresh brings back what a boot takes from memory, and proves the system that the
// host has booted into: nobody there waits for it, and there is nothing to go back to
// but another boot.
func (d *deployment) afresh(ctx context.Context, m memory) error {
	if len(m) > 0 {
		d.log.Info("installing keys")
		if err := d.unpack(ctx, m); err != nil {
			return &failure{verb: verb(d.action, d.path), err: err, cause: fmt.Sprintf("install keys after the reboot: %v; the host has booted the system, and it is the boot default", err),
				hint: "install them with nx-copy keys"}
		}
	}
	if len(d.health) == 0 {
		return nil
	}
	conn, err := d.dial(ctx, d.to)
	if err != nil {
		return err
	}
	defer conn.Close()
	d.until = time.Time{}
	if bad := d.check(ctx, conn, d.health); bad != "" {
		return &failure{verb: verb(d.action, d.path), cause: bad + "; the host has booted it, and it is the boot default"}
	}
	return nil
}

// check runs checks for most of the time that the host waits to be reached, so
// that it hears in time what failed.
func (d *deployment) check(ctx context.Context, conn Conn, checks []check) (bad string) {
	until := d.until
	if until.IsZero() {
		until = time.Now().Add(cmp.Or(time.Duration(d.with.confirmTimeout)*time.Second, time.Minute))
	}
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	results := runChecks(ctx, d.log, checks, conn, d.as)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checks = results
	return failed(results)
}

func verb(action Action, path store.Path) string { return fmt.Sprintf("%s %s", action, path) }

// refused says why the script did not get as far as looking at the system.
func (d *deployment) refused(status int) (Activation, error) {
	f := &failure{verb: verb(d.action, d.path), log: d.said.tail()}
	switch {
	case d.facts.has("user"):
		f.cause = fmt.Sprintf("the host runs us as user %s, and this needs root", d.facts.value("user"))
		f.hint = `set target.sudo, such as ["sudo"], or have nx-switch on the host: nx-activate module writes its NixOS module`
	case d.facts.has("protocol"):
		f.cause = fmt.Sprintf("the host's nx-switch speaks protocol %s, and this nx-activate %s", d.facts.value("protocol"), target.SwitchProtocol)
		f.hint = "have both of one version: nx-activate module writes the NixOS module"
	case d.facts.has("refused"):
		f.cause = "the host's nx-switch refused " + d.facts.value("refused")
		f.hint = "sign what nx-copy brings with --sign-key; only root activates what is not signed"
	case d.facts.has("absent"):
		f.cause = fmt.Sprintf("it is not on %s", d.to.Host)
		f.hint = "nx-copy brings it there; it stands before nx-activate in the pipe"
	default:
		f.cause = fmt.Sprintf("exit status %d", status)
		if last := d.said.last(); last != "" {
			f.cause += ": " + last
		}
		if d.to.Login() != target.DefaultUser {
			f.hint = fmt.Sprintf("may user %s run /bin/sh as root there without a password? target.sudo is %q", d.to.Login(), d.to.Sudo)
		}
	}
	return Activation{Result: Failed}, f
}
