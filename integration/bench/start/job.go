// Package start measures cold starts: containers whose images the node has never seen, with all caches empty, one system after the other.
package start

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-snapshotter/sluice/integration/bench/meter"
	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// Job is one container to pull and run. It has to end by itself.
type Job struct {
	Ref    string
	Args   []string // nil runs the image's command
	Ready  string   // the line by which it is ready
	Output string   // all that it may print
	Err    error    // why there is no such image: what the job fails with
}

// timeout of a repetition: what takes longer has failed.
const timeout = 10 * time.Minute

// errLost says that a container ended with status 0 and that the end of its output is missing, from what cause ever. It was seen once in some
// hundred containers that end at once, and also with overlayfs.
var errLost = errors.New("output is missing")

// logLines are kept of each log where a repetition has failed.
const logLines = 5

// trial is one repetition: jobs that start at the same moment on a new node.
type trial struct {
	registry *stack.Registry
	system   system.System
	jobs     []Job
	rest     bool // wait until everything has come
	local    bool // run the jobs once more, when all is there and in memory
}

// timing is when a job had pulled and was ready, in seconds since the beginning.
type timing struct{ pulled, ready float64 }

// run measures the trial. Any fault is an error: of the node's parts, of a container, in what it printed.
func (t trial) run(ctx context.Context) (values map[result.Measure]float64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %s", timeout))
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}()
	n, err := t.system.Start(ctx, t.registry)
	if err != nil {
		return nil, err
	}
	defer func() {
		logs := n.Tail(logLines)
		// Parts that had died are an error of Close.
		if err = errors.Join(err, n.Close()); err != nil {
			err = fmt.Errorf("%w\n%s", err, logs)
		}
	}()
	m, err := meter.Begin(n, t.registry)
	if err != nil {
		return nil, err
	}
	all := &start{trial: t, node: n, meter: m, timings: make([]timing, len(t.jobs)), waiting: len(t.jobs)}
	if err := all.run(ctx); err != nil {
		return nil, err
	}
	return all.values, all.afterwards(ctx)
}

// start is a trial at work.
type start struct {
	trial
	node    *stack.Node
	meter   *meter.Meter
	timings []timing

	mu      sync.Mutex
	waiting int // jobs that are not ready
	values  map[result.Measure]float64
	err     error
}

func (s *start) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range s.jobs {
		g.Go(func() error { return s.job(ctx, i) })
	}
	if err := errors.Join(g.Wait(), s.err); err != nil {
		return err
	}
	pull, run := 0.0, 0.0
	for _, t := range s.timings {
		pull += t.pulled
		run += t.ready - t.pulled
	}
	jobs := float64(len(s.jobs))
	s.values[result.Pull], s.values[result.Run] = pull/jobs, run/jobs
	return nil
}

func (s *start) job(ctx context.Context, i int) error {
	j, t := s.jobs[i], &s.timings[i]
	if j.Err != nil {
		return j.Err
	}
	c := s.container(j)
	if err := s.node.Pull(ctx, c); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	t.pulled = s.meter.Elapsed()
	out, err := s.node.RunReady(ctx, c, j.Ready, func() {
		t.ready = s.meter.Elapsed()
		s.ready(t.ready)
	})
	if errors.Is(err, stack.ErrNotReady) && len(out) < len(j.Output) && strings.HasPrefix(j.Output, out) {
		return fmt.Errorf("run: %w: %w", errLost, err)
	}
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	if out != j.Output {
		return fmt.Errorf("run: the container printed %q, want %q", out, j.Output)
	}
	return nil
}

func (s *start) container(j Job) stack.Container {
	return stack.Container{Ref: j.Ref, Snapshotter: s.system.Snapshotter, Args: j.Args}
}

// ready takes what was used when the last job is ready.
func (s *start) ready(elapsed float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting--; s.waiting > 0 {
		return
	}
	if s.values, s.err = s.meter.Ready(); s.err == nil {
		s.values[result.Total] = elapsed
	}
}

// afterwards measures what is wanted besides.
func (s *start) afterwards(ctx context.Context) error {
	disk, err := meter.Disk(s.node.Dir())
	if err != nil {
		return err
	}
	s.values[result.Disk] = float64(disk)
	if s.system.Own() {
		m, err := s.node.Metrics(ctx)
		if err != nil {
			return err
		}
		s.values[result.Prepare] = m.Seconds("sluice_prepare_seconds")
	}
	if s.rest {
		more, err := s.meter.Rest(ctx, timeout/2)
		if err != nil {
			return err
		}
		maps.Copy(s.values, more)
	}
	if !s.local {
		return nil
	}
	if seconds, err := s.again(ctx); err == nil {
		s.values[result.Local] = seconds
	}
	return ctx.Err() // the start itself was all right
}

// again starts all jobs once more, and returns the seconds until the last of them is ready.
func (s *start) again(ctx context.Context) (seconds float64, err error) {
	var g errgroup.Group
	begin := time.Now()
	for _, j := range s.jobs {
		g.Go(func() error {
			out, err := s.node.RunReady(ctx, s.container(j), j.Ready, func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				seconds = time.Since(begin).Seconds()
			})
			if err == nil && out != j.Output {
				err = fmt.Errorf("the container printed %q, want %q", out, j.Output)
			}
			return err
		})
	}
	err = g.Wait()
	return seconds, err
}
