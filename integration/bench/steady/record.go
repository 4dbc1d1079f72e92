package steady

import (
	"context"
	"fmt"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// record puts an outcome into the row of a place, if that is wanted.
func (r *runner) record(ctx context.Context, p place, op operation, o outcome) {
	row := r.rows[p]
	if row == nil || ctx.Err() != nil {
		return
	}
	values := map[result.Measure]float64{}
	err := r.judge(p, o)
	if err == nil {
		values[op.measure] = op.value(o.reading)
		err = r.memory(p, values)
	}
	if err != nil {
		r.fail(row, fmt.Errorf("repetition %d: %w", r.repetition, err))
		return
	}
	row.Add(values)
	r.Progress("%d/%d %s  %.4g s, %s", r.repetition, r.Repeat, row.Name(), o.Seconds, o.Check)
}

// judge says whether an outcome counts.
func (r *runner) judge(p place, o outcome) error {
	if o.err != nil {
		return o.err
	}
	if o.Seconds <= 0 {
		return fmt.Errorf("took %v seconds", o.Seconds)
	}
	want, known := r.checks[p.operation]
	switch {
	case !known && p.system == 0:
		r.checks[p.operation] = o.Check
	case !known:
		return fmt.Errorf("%s has nothing to compare it with", r.Systems[0].Name)
	case o.Check != want:
		return fmt.Errorf("read %s, but %s read %s", o.Check, r.Systems[0].Name, want)
	}
	return nil
}

// memory adds what the snapshotter needed at most, where all has been read through it.
func (r *runner) memory(p place, values map[result.Measure]float64) error {
	if p.operation != tarName || p.kase != CompleteCold {
		return nil
	}
	if !r.nodes[p.system].HasSnapshotter() {
		return nil
	}
	u, err := r.nodes[p.system].SnapshotterUsage()
	values[result.RSS] = float64(u.Peak)
	return err
}

func (r *runner) fail(row *result.Row, err error) {
	row.Fail(err)
	r.Progress("%s FAILED: %v", row.Name(), err)
}

// explain fails what was not measured because the run has ended.
func (r *runner) explain(err error) {
	if err == nil {
		err = fmt.Errorf("%d repetitions", r.Repeat)
	}
	for _, row := range r.rows {
		if len(row.Measures) == 0 && len(row.Failed) == 0 {
			row.Fail(fmt.Errorf("not measured: %w", err))
		}
	}
}
