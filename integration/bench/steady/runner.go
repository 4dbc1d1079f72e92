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
	partial    []*stack.Node     // the same, with layers that are not complete
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
		Options: o, rows: make(map[place]*result.Row), checks: make(map[string]string),
		nodes: make([]*stack.Node, len(o.Systems)), partial: make([]*stack.Node, len(o.Systems)),
		findings: findings{err: errors.New("there was no survey: " + result.Baseline + " did not start")},
	}
	for _, op := range r.operations() {
		for _, kase := range op.cases {
			if o.Want != nil && !o.Want(rowName(op, kase)) {
				continue
			}
			for i, s := range o.Systems {
				if !s.has(kase) || op.squeezed && !s.native() {
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
func (r *runner) local(p place) bool {
	return p.kase == CompleteCold || p.kase == CompleteWarm || !r.Systems[p.system].Lazy()
}

// questions are the most bytes that a snapshotter may get from the registry where it has everything: some ask whether they still may.
const questions = 64 << 10

// present measures one operation where all that it reads is local, cold and warm.
func (r *runner) present(ctx context.Context, op operation, order []int, coldCase, warmCase string) {
	for _, i := range order {
		cold, warm := place{op.name, coldCase, i}, place{op.name, warmCase, i}
		n, times := r.node(cold), 0
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
		} else if err := r.state(ctx, cold); err != nil {
			all = outcomes(times, nil, err)
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
	if op.squeezed {
		if j.memory, err = r.findings.half(); err != nil {
			return outcomes(j.times, nil, err)
		}
	}
	if err := stack.DropCaches(); err != nil {
		return outcomes(j.times, nil, err)
	}
	j.limit = limit
	return r.box.run(ctx, n, j)
}
