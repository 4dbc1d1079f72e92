// Package wait measures how long readers wait for contents that are not on the node, alone and while the rest of the image is fetched
// in the background.
//
// The image is one large file that nobody stores (package stream). Its reader is this program itself, which reads a page of one chunk
// after the other, at random places, where containerd has mounted the image.
package wait

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/start"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/stream"
)

// Subject of the rows.
const Subject = "random chunks"

const (
	chunks = 2048 // 8 GiB: more than comes in the background while all misses are read, one by one
	misses = 200
	warmUp = 64 << 20 // bytes that have to come in the background before the first read
	limit  = 3 * time.Minute
)

// Systems are Sluice without and with background, the one to compare with first.
func Systems() []system.System {
	return []system.System{
		system.Sluice(result.WaitBaseline, system.ESGZ, "[fetch]\nbackground = false\n"),
		system.Sluice("sluice esgz", system.ESGZ, ""),
	}
}

// Options of a run.
type Options struct {
	Link     start.Link
	Repeat   int
	Progress func(format string, args ...any)

	chunks, misses int // 0 for those of the suite
}

// Run measures the systems in turn and returns a row for each. The error is only about the machine, or ctx has ended.
func Run(ctx context.Context, o Options) (_ []*result.Row, err error) {
	if o.chunks == 0 {
		o.chunks, o.misses = chunks, misses
	}
	im, err := stream.New(o.chunks)
	if err != nil {
		return nil, err
	}
	reg, err := stream.Serve(im)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	reg.Link.Shape(o.Link.Latency, o.Link.Bandwidth)
	systems, rows := Systems(), o.rows()
	for i := range o.Repeat {
		for _, j := range result.Order(len(systems), i) {
			if len(rows[j].Failed) > 0 {
				continue // there is nothing more to learn
			}
			t := trial{Options: o, registry: reg, system: systems[j], background: systems[j].Name != result.WaitBaseline, seed: uint64(i)}
			values, err := t.run(ctx)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			o.add(rows[j], values, err)
		}
	}
	return rows, nil
}

func (o Options) rows() []*result.Row {
	var rows []*result.Row
	for _, s := range Systems() {
		rows = append(rows, &result.Row{Section: result.Wait, Subject: Subject, Case: o.Link.String(), System: s.Name, Form: string(s.Form)})
	}
	return rows
}

// add puts a repetition into its row.
func (o Options) add(row *result.Row, values map[result.Measure]float64, err error) {
	if err != nil {
		row.Fail(err)
		o.Progress("%s FAILED: %v", row.Name(), err)
		return
	}
	row.Add(values)
	o.Progress("%s  p50 %.0f ms, p95 %.0f ms, %.0f were there, %.0f MB/s", row.Name(), 1e3*values[result.WaitMedian], 1e3*values[result.WaitP95],
		values[result.Present], values[result.LinkRate]/1e6)
}
