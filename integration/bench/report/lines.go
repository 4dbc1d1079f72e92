package report

import (
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// point is one of a line of growth.
type point struct {
	x, y   float64
	failed bool // y is nothing, and the line has a gap
}

// line is one system's.
type line struct {
	look
	weight vg.Length // how much thicker than the last, so that each shows through where they meet
	points []point   // by x
}

// lines is a chart of growth. It is a plot.Plotter because plotter.Line knows no points that failed.
type lines []line

const crossHeight = 10 * vg.Length(1)

// Plot implements plot.Plotter.
func (l lines) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	failures := make(map[float64]int) // at an x
	for _, one := range l {
		var run []vg.Point
		for _, pt := range one.points {
			if pt.failed {
				one.cross(c, vg.Point{X: x(pt.x), Y: c.Max.Y - crossHeight*(vg.Length(failures[pt.x])+0.6)})
				failures[pt.x]++
				one.stroke(c, run)
				run = nil
				continue
			}
			run = append(run, vg.Point{X: x(pt.x), Y: y(pt.y)})
		}
		one.stroke(c, run)
	}
}

// stroke draws points that succeeded one after the other.
func (l line) stroke(c draw.Canvas, run []vg.Point) {
	if len(run) > 1 {
		c.StrokeLines(l.style(), run)
	}
	for _, at := range run {
		c.DrawGlyphNoClip(draw.GlyphStyle{Color: l.colour, Radius: 2.5 + l.weight/2, Shape: l.glyph}, at)
	}
}

func (l line) style() draw.LineStyle { return draw.LineStyle{Color: l.colour, Width: 1.3 + l.weight} }

// cross marks a failure at the upper edge, with the word on the side where there is room.
func (l line) cross(c draw.Canvas, at vg.Point) {
	c.DrawGlyphNoClip(draw.GlyphStyle{Color: l.colour, Radius: 3.5, Shape: draw.CrossGlyph{}}, at)
	sty := style(small - 1)
	sty.Color = l.colour
	gap := vg.Length(6)
	if at.X > c.Center().X {
		sty.XAlign, gap = draw.XRight, -gap
	}
	c.FillText(sty, vg.Point{X: at.X + gap, Y: at.Y}, "failed")
}

// thumbnail is the line's place in the legend.
func (l line) thumbnail(c draw.Canvas, at vg.Rectangle) {
	stroke(l.style(), false)(c, at)
	middle := vg.Point{X: (at.Min.X + at.Max.X) / 2, Y: (at.Min.Y + at.Max.Y) / 2}
	c.DrawGlyphNoClip(draw.GlyphStyle{Color: l.colour, Radius: 2.5 + l.weight/2, Shape: l.glyph}, middle)
}

// span is the range of what key returns for the points; for those that failed only if they have it.
func (l lines) span(key func(point) float64, failed bool) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, one := range l {
		for _, pt := range one.points {
			if failed || !pt.failed {
				low, high = min(low, key(pt)), max(high, key(pt))
			}
		}
	}
	return low, high
}

// crosses is how many stand one below the other where there are most.
func (l lines) crosses() int {
	at, most := make(map[float64]int), 0
	for _, one := range l {
		for _, pt := range one.points {
			if pt.failed {
				at[pt.x]++
				most = max(most, at[pt.x])
			}
		}
	}
	return most
}
