package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// DefaultJobs is how many evaluators this machine has processors and memory for.
// Each takes up to 2.5 GB where NixOS is real.
func DefaultJobs() int { return max(1, min(runtime.NumCPU(), int(availableMemory()/(5<<29)))) }

// workers returns how many evaluators to run for so many machines. To start one
// costs more than to give a further machine to one that runs.
func (n *Network) workers(machines int) int {
	jobs := n.Jobs
	if jobs <= 0 {
		jobs = DefaultJobs()
	}
	return max(1, min(jobs, (machines+1)/2))
}

// A limits is what an evaluator may have of the machine.
type limits struct {
	memory int64    // bytes; a worker that had more in use is ended after a machine
	env    []string // the settings of Nix' garbage collector
}

// largestHeap is where collecting less no longer gains: by then the kernel's
// work for the pages costs as much.
const largestHeap = 4 << 30

// limits divides the machine's memory among workers.
func (n *Network) limits(workers int) limits {
	l := limits{memory: n.MaxMemory}
	if l.memory <= 0 {
		// A quarter is left for the machine that a worker crosses the bound with.
		l.memory = availableMemory() / int64(workers) / 4 * 3
	}
	for _, setting := range []struct {
		name  string
		value int64
	}{
		// Half of an evaluation's time is garbage collection when the heap starts
		// small and grows slowly. The initial heap is address space until it is used.
		{"GC_INITIAL_HEAP_SIZE", min(largestHeap, l.memory/10*9)},
		{"GC_FREE_SPACE_DIVISOR", 1},
	} {
		if _, ok := os.LookupEnv(setting.name); !ok {
			l.env = append(l.env, fmt.Sprintf("%s=%d", setting.name, setting.value))
		}
	}
	return l
}

// A queue holds the items that no worker has taken.
type queue struct {
	mu       sync.Mutex
	items    []item
	workers  int
	smallest int // chunk
}

// smallestChunk is how many items a worker takes at least, where there are as
// many for each: to begin anew costs as much as one or two machines.
const smallestChunk = 5

func newQueue(items []item, workers int) *queue {
	each := (len(items) + workers - 1) / workers
	return &queue{items: items, workers: workers, smallest: min(each, smallestChunk)}
}

// next takes half of what is each worker's share of the rest: large chunks
// first, so that workers seldom begin anew, and small ones at last, so that they
// end together. One worker alone takes all.
func (q *queue) next() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.items)
	if q.workers > 1 {
		n = min(n, max(n/q.workers/2, q.smallest))
	}
	chunk := q.items[:n:n]
	q.items = q.items[n:]
	return chunk
}

// askAll is ask with several workers: tell is called from several goroutines.
func (s *session) askAll(ctx context.Context, answer string, items []item, tell func(it item, answer []byte, err error)) {
	workers := s.workers(len(items))
	s.limits = s.Network.limits(workers)
	q := newQueue(items, workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for chunk := q.next(); len(chunk) > 0 && ctx.Err() == nil; chunk = q.next() {
				s.ask(ctx, answer, chunk, tell)
			}
		})
	}
	wg.Wait()
}

// ask has items evaluated one after the other and calls tell for each, in
// order. An item that ends the evaluator, by whatever error or crash, gets the
// error; the items behind it are asked again. Once ctx is done, the rest is left.
func (s *session) ask(ctx context.Context, answer string, items []item, tell func(it item, answer []byte, err error)) {
	for len(items) > 0 && ctx.Err() == nil {
		answered, err := s.evaluate(ctx, answer, items, tell)
		items = items[answered:]
		if len(items) > 0 && killed(err) && ctx.Err() == nil {
			// The kernel kills for memory, of which others may have been the cause:
			// the machine in work has a second chance, in a process of its own.
			s.logger(items[0]).Warn("the evaluator was killed: evaluating again", "error", err)
			answered, err = s.evaluate(ctx, answer, items[:1], tell)
			items = items[answered:]
			if answered == 1 {
				continue
			}
			if killed(err) {
				err = &killedError{err}
			}
		}
		switch {
		case len(items) == 0 || ctx.Err() != nil:
			return
		case errors.Is(err, errMemory):
			s.log().Debug("the evaluator has had its memory: going on in a new one", "bound", s.limits.memory)
			continue
		case err == nil:
			err = errors.New("evaluate configuration: the evaluator ended without an answer")
		}
		tell(items[0], nil, err)
		items = items[1:]
	}
}

// errMemory ends an evaluator that has answered and crossed its bound.
var errMemory = errors.New("the evaluator took more memory than it may")

// killed tells whether an evaluator ended as the kernel ends one when memory runs out.
func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// A killedError is a machine's whose evaluators are killed.
type killedError struct{ cause error }

func (e *killedError) Error() string { return e.cause.Error() + ", twice" }
func (e *killedError) Unwrap() error { return e.cause }
func (e *killedError) Hint() string {
	return "so the kernel ends what takes too much memory: give it more, or evaluate fewer at a time with -j 1"
}

// peakMemory returns the most bytes of memory that process pid had in use
// (proc_pid_status(5), VmHWM), 0 where that is not known.
func peakMemory(pid int) int64 {
	return kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
}

// availableMemory returns the bytes that can be used without swapping
// (proc_meminfo(5), MemAvailable), much where that is not known.
func availableMemory() int64 {
	if n := kilobytes("/proc/meminfo", "MemAvailable:"); n > 0 {
		return n
	}
	return 1 << 40
}

// kilobytes returns in bytes what file says of name on a line "NAME N kB".
func kilobytes(file, name string) int64 {
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == name {
			if kb, err := strconv.ParseInt(words[1], 10, 64); err == nil {
				return kb << 10
			}
		}
	}
	return 0
}
