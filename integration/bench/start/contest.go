package start

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// Link is what lies between a node and the registry.
type Link struct {
	Latency   time.Duration // of each request
	Bandwidth int64         // bytes per second for all connections together; 0 means unlimited
}

func (l Link) String() string {
	if l == (Link{}) {
		return "loopback"
	}
	if l.Bandwidth%1e9 == 0 {
		return fmt.Sprintf("%d ms, %d GB/s", l.Latency.Milliseconds(), l.Bandwidth/1e9)
	}
	return fmt.Sprintf("%d ms, %d MB/s", l.Latency.Milliseconds(), l.Bandwidth/1e6)
}

// Contest is systems in the same situation, in turn.
type Contest struct {
	Section  result.Section
	Subject  string
	Case     string
	X        float64
	Registry *stack.Registry
	Link     Link
	Systems  []system.System // the baseline among them
	Jobs     func(system.Form) []Job
	Times    int // each job is started so many times at once
	Repeat   int
	Rest     bool  // in the first repetition, wait until everything has come
	Size     int64 // bytes of the ordinary images' layers
	Needed   int64 // bytes that what the containers read compresses to; 0 if unknown
	Progress func(format string, args ...any)
}

// Run measures every system Repeat times and returns a row for each. The error is only that ctx has ended; what goes wrong with a
// system is in its row.
func (c Contest) Run(ctx context.Context) ([]*result.Row, error) {
	rows := c.rows()
	c.Registry.Link.Shape(c.Link.Latency, c.Link.Bandwidth)
	defer c.Registry.Link.Shape(0, 0)
	for i := range c.Repeat {
		for _, j := range result.Order(len(c.Systems), i) {
			if len(rows[j].Failed) > 0 {
				continue // there is nothing more to learn
			}
			c.once(ctx, rows[j], c.Systems[j], i == 0)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
		}
	}
	c.floors(rows)
	return rows, nil
}

// None are the rows where there is nothing to start.
func (c Contest) None(why error) []*result.Row {
	rows := c.rows()
	for _, r := range rows {
		r.Fail(why)
	}
	return rows
}

func (c Contest) rows() []*result.Row {
	rows := make([]*result.Row, len(c.Systems))
	for i, s := range c.Systems {
		rows[i] = &result.Row{Section: c.Section, Subject: c.Subject, Case: c.Case, X: c.X, System: s.Name, Form: string(s.Form)}
	}
	return rows
}

// once adds one repetition to row. Output that is missing twice is the system's fault.
func (c Contest) once(ctx context.Context, row *result.Row, s system.System, first bool) {
	t := trial{registry: c.Registry, system: s, jobs: c.jobs(s.Form), rest: first && c.Rest, local: s.Name == result.Baseline}
	values, err := t.run(ctx)
	if errors.Is(err, errLost) {
		c.Progress("%s again: %v", row.Name(), err)
		row.Repeated++
		values, err = t.run(ctx)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		row.Fail(err)
		c.Progress("%s FAILED: %v", row.Name(), err)
	default:
		row.Add(values)
		c.Progress("%s  %.2f + %.2f = %.2f s, %.1f MB in %.0f requests", row.Name(),
			values[result.Pull], values[result.Run], values[result.Total], values[result.BytesReady]/1e6, values[result.RequestsReady])
	}
}

// Round trips that depend on each other: the manifest, then a layer; of a lazy layer first its TOC, from which one knows where contents
// lie.
const (
	plainTrips = 2
	lazyTrips  = 3
)

func (c Contest) jobs(f system.Form) []Job { return slices.Repeat(c.Jobs(f), c.Times) }

// floors sets each row's floor, if the baseline could be measured.
func (c Contest) floors(rows []*result.Row) {
	local := 0.0
	for _, r := range rows {
		if r.System == result.Baseline {
			local = result.Summarize(r.Measures[result.Local]).Min
		}
	}
	if local == 0 {
		return
	}
	for i, s := range c.Systems {
		bytes, trips := float64(c.Size), plainTrips
		if s.Lazy() {
			bytes, trips = float64(c.Needed), lazyTrips
		}
		if bytes > 0 {
			rows[i].Floor = result.NewFloor(bytes, trips, local, c.Link.Latency.Seconds(), float64(c.Link.Bandwidth))
		}
	}
}
