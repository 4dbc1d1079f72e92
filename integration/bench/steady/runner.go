package steady

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// runner is one run.
type runner struct {
	Options
	rows       map[place]*result.Row
	checks     map[string]string // what each operation reads, as the first of the systems said first
	box        *box              // nil if it could not be made
	nodes      []*stack.Node     // with everything local, by system; nil where none is needed or it could not be started
	findings   findings
	repetition int
}

// place of a row.
type place struct {
	operation string
	kase      string
	system    int // index
}

// newRunner makes the rows that are wanted.
func newRunner(o Options) *runner {
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	r := &runner{
		Options: o, rows: make(map[place]*result.Row), checks: make(map[string]string), nodes: make([]*stack.Node, len(o.Systems)),
		findings: findings{err: errors.New("there was no survey: " + result.Baseline + " did not start")},
	}
	for _, op := range r.operations() {
		for _, kase := range []string{FirstRead, CompleteCold, CompleteWarm} {
			if o.Want != nil && !o.Want(rowName(op, kase)) {
				continue
			}
			for i, s := range o.Systems {
				if s.Local && kase == FirstRead {
					continue
				}
				row := &result.Row{Section: result.Steady, Subject: op.name, Case: kase, System: s.Name}
				r.rows[place{op.name, kase, i}] = row
				o.Report.Rows = append(o.Report.Rows, row)
			}
		}
	}
	return r
}

// local says whether the row of a place is measured where everything is local.
func (r *runner) local(p place) bool { return p.kase != FirstRead || !r.Systems[p.system].Lazy() }

// questions are the most bytes that a snapshotter may get from the registry where it has everything: some ask whether they still may.
const questions = 64 << 10

// complete measures one operation where everything is local.
func (r *runner) complete(ctx context.Context, op operation, order []int) {
	for _, i := range order {
		n := r.nodes[i]
		cold, warm := place{op.name, CompleteCold, i}, place{op.name, CompleteWarm, i}
		times := 0
		if r.rows[cold] != nil {
			times = 1
		}
		if r.rows[warm] != nil {
			times = 1 + op.warm
		}
		if n == nil || times == 0 || ctx.Err() != nil {
			continue
		}
		r.Registry.Link.ResetCounts()
		all := r.cold(ctx, n, op, job{container: r.container(i), times: times})
		if got := r.Registry.Link.Counts().Total().Bytes; got > questions {
			all = outcomes(times, nil, fmt.Errorf("%d bytes came from the registry, though everything was there", got))
		}
		r.record(ctx, cold, op, all[0])
		if times > 1 {
			r.record(ctx, warm, op, middle(all[1:]))
		}
	}
}

// first measures one operation where nothing is local.
func (r *runner) first(ctx context.Context, op operation, order []int) {
	for _, i := range order {
		n := r.nodes[i]
		p := place{op.name, FirstRead, i}
		switch j := (job{container: r.container(i), times: 1}); {
		case r.rows[p] == nil || ctx.Err() != nil:
		case !r.local(p):
			r.record(ctx, p, op, r.fresh(ctx, i, op))
		case n != nil:
			r.record(ctx, p, op, r.cold(ctx, n, op, j)[0])
		}
	}
}

// cold runs an operation after dropping all caches.
func (r *runner) cold(ctx context.Context, n *stack.Node, op operation, j job) []outcome {
	var err error
	if j.args, err = op.args(r.findings); err != nil {
		return outcomes(j.times, nil, err)
	}
	if err := stack.DropCaches(); err != nil {
		return outcomes(j.times, nil, err)
	}
	j.limit = limit
	return r.box.run(ctx, n, j)
}
