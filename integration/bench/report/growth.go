package report

import (
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

const (
	logX = 10 // an axis whose values span more than this factor is logarithmic
	logY = 30

	growthHeight = 190 * vg.Length(1) // of a chart
)

// scalingFigure shows the rows of one subject, which are sorted by X: a chart for each measure, with a line for each system.
func (d *document) scalingFigure(rows []*result.Row) *figure {
	f := &figure{title: "Growth with the number of " + rows[0].Subject, cols: 2, height: growthHeight}
	for _, name := range d.here(rows) {
		f.legend = append(f.legend, entry{name, d.line(name).thumbnail})
	}
	for _, c := range growing {
		if measured(rows, c.measure) || c.measure == result.Total {
			f.tiles = append(f.tiles, d.growth(rows, c))
		}
	}
	return f
}

// growth is the chart of one measure.
func (d *document) growth(rows []*result.Row, of column) *plot.Plot {
	var l lines
	for _, name := range d.here(rows) {
		one := d.line(name)
		for _, r := range choose(rows, system, name) {
			if has(r, of.measure) || !r.OK() {
				one.points = append(one.points, pointOf(r, of.measure))
			}
		}
		l = append(l, one)
	}
	return l.tile(of.head, rows)
}

// line is the system's, without points. Later systems are drawn above those before, and are thinner.
func (d *document) line(name string) line {
	behind := len(d.systems) - 1 - slices.Index(d.systems, name)
	return line{look: d.colours[name], weight: 0.25 * vg.Length(behind)}
}

func pointOf(r *result.Row, m result.Measure) point {
	if !r.OK() {
		return point{x: r.X, failed: true}
	}
	return point{x: r.X, y: median(r, m) / unitOf(m).size}
}

// tile makes a plot of the lines. The rows give the labels of the X axis.
func (l lines) tile(title string, rows []*result.Row) *plot.Plot {
	p := blank()
	p.X.Min, p.X.Max = l.span(func(pt point) float64 { return pt.x }, true)
	if low, high := p.X.Min, p.X.Max; low > 0 && high > logX*low {
		p.X.Scale = plot.LogScale{}
	}
	p.X.Padding, p.Y.Padding = 6, 4
	p.X.Tick.Marker = cases(rows, p.X)
	low, high := l.span(func(pt point) float64 { return pt.y }, false)
	switch {
	case low > high || high <= 0: // nothing succeeded, or only zeros
	case low > 0 && high > logY*low:
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		p.Y.Min, p.Y.Max = low, high*math.Pow(high/low, l.headroom())
		title += ", logarithmic"
	default:
		p.Y.Max, p.Y.Tick.Marker = high*(1+l.headroom()), round(high)
	}
	p.Add(grid{both: true}, l, heading(title))
	return p
}

// headroom is what the crosses need above the data, as a part of the data's height.
func (l lines) headroom() float64 {
	const inner = growthHeight - 45 // without the heading and the axis
	need := crossHeight*vg.Length(l.crosses()) + 8
	return float64(need / (inner - min(need, inner/2)))
}

// cases labels an axis with the cases at their X, where one does not run into the one before.
func cases(rows []*result.Row, axis plot.Axis) plot.ConstantTicks {
	const rune = 0.015 // of the axis
	var ticks plot.ConstantTicks
	end := math.Inf(-1)
	for _, c := range distinct(rows, kase) {
		x := choose(rows, kase, c)[0].X
		half := rune * float64(len(c)+1) / 2
		at := axis.Norm(x)
		if at-half < end {
			c = ""
		} else {
			end = at + half
		}
		ticks = append(ticks, plot.Tick{Value: x, Label: c})
	}
	return ticks
}
