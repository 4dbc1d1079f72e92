package report

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// bar is a line of a chart with one for each system.
type bar struct {
	fills []color.Color
	ends  []float64      // where each fill ends; they stand one behind the other
	edge  color.Color    // around a bar that has no parts; or nil
	span  result.Summary // of the whole
	mark  float64        // an upright line; 0 is none
	note  string         // behind the bar
	gone  color.Color    // of the note, where there is nothing to draw and it says why; or nil
}

// bars is a chart of lying bars, the first on top. It is a plot.Plotter because plotter.BarChart knows no bars that failed.
type bars []bar

const (
	half = 0.36 // a bar's height, of what it has
	room = 1.6  // for notes, of the longest bar
)

var (
	white   = color.NRGBA{R: 0xff, G: 0xff, B: 0xff, A: 0xff}
	light   = color.NRGBA{R: 0xdd, G: 0xdd, B: 0xdd, A: 0xff}
	red     = color.NRGBA{R: 0xb0, A: 0xff}
	whisker = draw.LineStyle{Color: black, Width: 0.7}
	marker  = draw.LineStyle{Color: black, Width: 1.6}
)

// Plot implements plot.Plotter.
func (b bars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for i, one := range b {
		line := float64(len(b) - 1 - i)
		slot := vg.Rectangle{Min: vg.Point{X: x(0), Y: y(line - half)}, Max: vg.Point{X: x(0), Y: y(line + half)}}
		if one.gone != nil {
			one.explain(c, slot)
		} else {
			one.plot(c, x, slot)
		}
	}
}

// explain stands in the place of a bar.
func (b bar) explain(c draw.Canvas, slot vg.Rectangle) {
	sty := style(small)
	sty.Color = b.gone
	c.FillText(sty, vg.Point{X: slot.Min.X + 4, Y: (slot.Min.Y + slot.Max.Y) / 2}, b.note)
}

func (b bar) plot(c draw.Canvas, x func(float64) vg.Length, slot vg.Rectangle) {
	from := slot
	for i, fill := range b.fills {
		from.Max.X = x(b.ends[i])
		c.FillPolygon(fill, corners(from))
		from.Min.X = from.Max.X
	}
	if b.edge != nil {
		slot.Max.X = from.Max.X
		frame(c, b.edge, slot)
	}
	middle := (slot.Min.Y + slot.Max.Y) / 2
	c.StrokeLine2(whisker, x(b.span.Min), middle, x(b.span.Max), middle)
	if b.mark > 0 {
		c.StrokeLine2(marker, x(b.mark), slot.Min.Y-1, x(b.mark), slot.Max.Y+1)
	}
	c.FillText(style(small), vg.Point{X: max(x(b.span.Max), x(b.mark)) + 4, Y: middle}, b.note)
}

// frame draws the edge of a hollow bar.
func frame(c draw.Canvas, edge color.Color, at vg.Rectangle) {
	around := corners(at)
	c.StrokeLines(draw.LineStyle{Color: edge, Width: 1.2}, append(around, around[:2]...))
}

// tile makes a plot of the bars, with the names to the left unless nil.
func (b bars) tile(title string, names []string) *plot.Plot {
	p := blank()
	longest := 0.0
	for _, one := range b {
		longest = max(longest, one.span.Max, one.mark)
	}
	p.X.Max = room * longest
	if longest == 0 {
		p.X.Max = 1
	}
	p.Y.Min, p.Y.Max = -0.6, float64(len(b))-0.4
	p.X.LineStyle.Width, p.Y.Tick.Length = 0, 0
	p.X.Tick.Marker = round(p.X.Max / room)
	p.Y.Tick.Marker = nominal(len(b), names)
	p.Add(grid{}, b, heading(title))
	return p
}

// nominal labels lines from the top down.
func nominal(n int, names []string) plot.ConstantTicks {
	ticks := make(plot.ConstantTicks, n)
	for i := range ticks {
		ticks[i] = plot.Tick{Value: float64(n - 1 - i), Label: " "}
		if names != nil {
			ticks[i].Label = names[i]
		}
	}
	return ticks
}
