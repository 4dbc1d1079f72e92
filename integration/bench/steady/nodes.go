package steady

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// start starts the node of a system that has everything local, if one of its rows is measured there; the first system's is needed for
// the survey in any case.
func (r *runner) start(ctx context.Context, i int) {
	needed := i == 0
	for p := range r.rows {
		needed = needed || p.system == i && r.local(p)
	}
	if !needed {
		return
	}
	n, err := r.filled(ctx, i)
	if err != nil {
		r.failAt(ctx, i, r.local, err)
		return
	}
	r.nodes[i] = n
	r.Progress("%s has everything", r.Systems[i].Name)
}

// failAt fails all rows of a system that are measured in one kind of place.
func (r *runner) failAt(ctx context.Context, i int, there func(place) bool, err error) {
	for p, row := range r.rows {
		if p.system == i && there(p) && ctx.Err() == nil {
			r.fail(row, err)
		}
	}
}

func (r *runner) container(i int) stack.Container {
	s := r.Systems[i]
	return stack.Container{Ref: r.Ref(s.Form), Snapshotter: s.Snapshotter}
}

// filled starts a node and reads the whole image there.
func (r *runner) filled(ctx context.Context, i int) (_ *stack.Node, err error) {
	ctx, cancel := context.WithTimeout(ctx, longLimit)
	defer cancel()
	n, err := r.Systems[i].Start(ctx, r.Registry)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	c := r.container(i)
	if err := n.Pull(ctx, c); err != nil {
		return nil, err
	}
	if o := r.box.run(ctx, n, job{container: c, args: []string{"all", "/"}, times: 1, limit: longLimit})[0]; o.err != nil {
		return nil, fmt.Errorf("read the whole image: %w", o.err)
	}
	if s := r.Systems[i]; s.Mount != "" {
		return n, completed(ctx, n, s.Mount)
	}
	return n, nil
}

// completed waits until every layer is on disk, and mounted so.
func completed(ctx context.Context, n *stack.Node, mount string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := n.Status(ctx)
		if err != nil {
			return err
		}
		missing := len(s.Layers)
		for _, l := range s.Layers {
			if l.State == "complete" && l.Mount == mount {
				missing--
			}
		}
		if missing == 0 && len(s.Layers) > 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d layers are not complete and mounted as %s: %w", missing, len(s.Layers), mount, ctx.Err())
		}
	}
}

// silence is how long nothing comes from the registry once all systems have what they want. Peers fetch, in their own time, what nobody
// reads (SOCI begins 30 s after a start), and share the registry, so that one's bytes would count as another's.
const (
	silence      = time.Second
	peersSilence = 40 * time.Second
)

// settle waits for silence, within reason: whoever does not come to an end of it has rows that failed.
func (r *runner) settle(ctx context.Context) error {
	pause := silence
	for i, s := range r.Systems {
		if r.nodes[i] != nil && s.Mount == "" && s.Lazy() {
			pause = peersSilence
		}
	}
	deadline, last := time.Now().Add(longLimit), time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	r.Registry.Link.ResetCounts()
	for seen := int64(0); time.Since(last) < pause && time.Now().Before(deadline); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if now := r.Registry.Link.Counts().Total().Bytes; now != seen {
			seen, last = now, time.Now()
		}
	}
	return nil
}

// survey finds what there is to read, where the contents are those that the others are compared with.
func (r *runner) survey(ctx context.Context) {
	if n := r.nodes[0]; n != nil {
		r.findings = r.box.survey(ctx, n, r.container(0))
	}
	if r.Large != "" {
		r.findings.Large, r.findings.LargeSize = r.Large, 0
	}
}

// fresh runs an operation once on a node of its own that has nothing yet.
func (r *runner) fresh(ctx context.Context, i int, op operation) (o outcome) {
	start, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	n, err := r.Systems[i].first().Start(start, r.Registry)
	if err != nil {
		return outcome{err: err}
	}
	defer func() { o.err = errors.Join(o.err, n.Close()) }()
	c := r.container(i)
	if err := n.Pull(start, c); err != nil {
		return outcome{err: err}
	}
	return r.cold(ctx, n, op, job{container: c, times: 1})[0]
}

// close closes the nodes. What only shows then, as a panic in the daemon's log, makes all that was measured there worthless.
func (r *runner) close() {
	r.closeAll(r.nodes, r.local)
	r.closeAll(r.partial, r.incomplete)
}

func (r *runner) closeAll(nodes []*stack.Node, there func(place) bool) {
	for i, n := range nodes {
		if n == nil {
			continue
		}
		if err := n.Close(); err != nil {
			r.failAt(context.Background(), i, there, err)
		}
	}
}
