package wait

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/stack"
	"github.com/sluice-snapshotter/sluice/integration/stream"
)

// trial is one repetition: a new node that reads the image.
type trial struct {
	Options
	registry   *stream.Registry
	system     system.System
	background bool
	seed       uint64
}

func (t trial) run(ctx context.Context) (values map[result.Measure]float64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	defer cancel()
	n, err := t.system.Start(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	t.registry.Link.ResetCounts()
	c := stack.Container{Ref: t.registry.Ref(), Snapshotter: t.system.Snapshotter}
	if err := n.Pull(ctx, c); err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp("", "wait")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(root)) }()
	if err := n.Mount(ctx, c, root); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Unmount(context.WithoutCancel(ctx), c, root)) }()
	if err := t.warm(ctx); err != nil {
		return nil, err
	}
	return t.read(ctx, filepath.Join(root, stream.File))
}

// bytes is what has come through the link.
func (t trial) bytes() int64 { return t.registry.Link.Counts().Total().Bytes }

// warm waits until the background is at work.
func (t trial) warm(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for t.background && t.bytes() < min(warmUp, int64(t.chunks)*stream.ChunkBytes/4) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("nothing comes in the background: %w", context.Cause(ctx))
		}
	}
	return nil
}

// read reads until there were enough misses.
func (t trial) read(ctx context.Context, file string) (map[result.Measure]float64, error) {
	r, err := open(file, t.seed)
	if err != nil {
		return nil, err
	}
	defer r.close()
	was, began := t.bytes(), time.Now()
	var waits []float64
	present := 0
	for len(waits) < t.misses {
		if err := r.think(ctx); err != nil {
			return nil, err
		}
		wait, err := r.next()
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, err
		}
		// What needs a request waits for the latency, whatever else there is to wait for.
		if wait < t.Link.Latency {
			present++
			continue
		}
		waits = append(waits, wait.Seconds())
	}
	came := t.bytes()
	if t.background && came >= int64(t.chunks)*stream.ChunkBytes {
		return nil, fmt.Errorf("all of the file had come before %d chunks were missed", t.misses)
	}
	return map[result.Measure]float64{
		result.WaitMedian: quantile(waits, 0.5), result.WaitP95: quantile(waits, 0.95), result.Present: float64(present),
		result.LinkRate: float64(came-was) / time.Since(began).Seconds(),
	}, nil
}
