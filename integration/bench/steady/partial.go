package steady

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// incomplete says whether the row of a place is measured where layers lack something.
func (r *runner) incomplete(p place) bool { return !r.local(p) && p.kase != FirstRead }

// node is where the row of a place is measured, unless that is a node of its own; nil if it could not be started.
func (r *runner) node(p place) *stack.Node {
	if r.incomplete(p) {
		return r.partial[p.system]
	}
	return r.nodes[p.system]
}

// startPartial starts the node of a system that gets what operations read and nothing else, if one of its rows is measured there.
func (r *runner) startPartial(ctx context.Context, i int) {
	var ops []operation
	for _, op := range r.operations() {
		for _, kase := range op.cases {
			if p := (place{op.name, kase, i}); r.rows[p] != nil && r.incomplete(p) {
				ops = append(ops, op)
				break
			}
		}
	}
	if len(ops) == 0 {
		return
	}
	n, err := r.primed(ctx, i, ops)
	if err != nil {
		r.failAt(ctx, i, r.incomplete, err)
		return
	}
	r.partial[i] = n
	r.Progress("%s has what is read, and not the rest", r.Systems[i].Name)
}

// primed starts a node and does there what will be measured.
func (r *runner) primed(ctx context.Context, i int, ops []operation) (_ *stack.Node, err error) {
	ctx, cancel := context.WithTimeout(ctx, longLimit)
	defer cancel()
	n, err := r.Systems[i].first().Start(ctx, r.Registry)
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
	if err := r.prime(ctx, n, ops, c); err != nil {
		return nil, err
	}
	return n, partly(ctx, n, r.Systems[i].Incomplete)
}

// primings is how often all operations are done at most until they ask for nothing new: the kernel's read-ahead depends on what comes when,
// and the daemon reads ahead of readers that find what they want, too, as long as there was a miss at their place not long ago.
const primings = 8

// prime does operations until nothing comes from the registry for any of them.
func (r *runner) prime(ctx context.Context, n *stack.Node, ops []operation, c stack.Container) error {
	got := int64(0)
	for range primings {
		r.Registry.Link.ResetCounts()
		for _, op := range ops {
			if o := r.cold(ctx, n, op, job{container: c, times: 1})[0]; o.err != nil {
				return fmt.Errorf("%s, to have what it reads: %w", op.name, o.err)
			}
		}
		if got = r.Registry.Link.Counts().Total().Bytes; got == 0 {
			return nil
		}
	}
	return fmt.Errorf("%d bytes came from the registry when everything was read for the %dth time", got, primings)
}

// state is an error if the node of a place is no longer what the place's case says.
func (r *runner) state(ctx context.Context, p place) error {
	if !r.incomplete(p) {
		return nil
	}
	return partly(ctx, r.node(p), r.Systems[p.system].Incomplete)
}

// partly is an error unless each layer lacks something and is mounted so.
func partly(ctx context.Context, n *stack.Node, mount string) error {
	s, err := n.Status(ctx)
	if err != nil {
		return err
	}
	if len(s.Layers) == 0 {
		return errors.New("status has no layers")
	}
	for _, l := range s.Layers {
		if l.State != "lazy" || l.Mount != mount || l.Fetched >= l.Size {
			return fmt.Errorf("layer %s is %s, mounted as %q, with %d of %d bytes; want it lazy, mounted as %q, and not all of it",
				l.Digest, l.State, l.Mount, l.Fetched, l.Size, mount)
		}
	}
	return nil
}
