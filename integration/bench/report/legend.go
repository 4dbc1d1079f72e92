package report

import (
	"image/color"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// entry is one of a legend.
type entry struct {
	label string
	draw  func(c draw.Canvas, at vg.Rectangle)
}

// ownScale warns of comparing bars across charts.
var ownScale = entry{"each chart has its own scale", func(draw.Canvas, vg.Rectangle) {}}

const (
	titleHeight = 20 * vg.Length(1)
	lineHeight  = 14 * vg.Length(1)
	thumb       = 16 * vg.Length(1) // wide
)

// place is where an entry goes: line 0 is the first.
type place struct {
	line int
	x    vg.Length
}

// places breaks the legend into lines.
func (f *figure) places() []place {
	var p place
	var all []place
	for _, e := range f.legend {
		w := thumb + 4 + style(small).Width(e.label) + 14
		if p.x > 0 && p.x+w > width-2*margin {
			p = place{line: p.line + 1}
		}
		all = append(all, p)
		p.x += w
	}
	return all
}

// headHeight is that of the title and the legend.
func (f *figure) headHeight() vg.Length {
	h := titleHeight + margin
	if all := f.places(); len(all) > 0 {
		h += vg.Length(all[len(all)-1].line+1) * lineHeight
	}
	return h
}

// drawLegend draws the entries below the title and above the data.
func (f *figure) drawLegend(c draw.Canvas) {
	for i, p := range f.places() {
		e := f.legend[i]
		at := vg.Point{X: c.Min.X + p.x, Y: c.Max.Y - titleHeight - vg.Length(p.line+1)*lineHeight}
		e.draw(c, vg.Rectangle{Min: vg.Point{X: at.X, Y: at.Y + 3}, Max: vg.Point{X: at.X + thumb, Y: at.Y + lineHeight - 3}})
		c.FillText(style(small), vg.Point{X: at.X + thumb + 4, Y: at.Y + lineHeight/2}, e.label)
	}
}

// block is a filled thumbnail.
func block(fill color.Color) func(draw.Canvas, vg.Rectangle) {
	return func(c draw.Canvas, at vg.Rectangle) { c.FillPolygon(fill, corners(at)) }
}

// hollow is the thumbnail of a bar that is only an edge.
func hollow(edge color.Color) func(draw.Canvas, vg.Rectangle) {
	return func(c draw.Canvas, at vg.Rectangle) { frame(c, edge, at) }
}

// stroke is a thumbnail with a line from one corner to the other, or along it.
func stroke(sty draw.LineStyle, upright bool) func(draw.Canvas, vg.Rectangle) {
	return func(c draw.Canvas, at vg.Rectangle) {
		x, y := (at.Min.X+at.Max.X)/2, (at.Min.Y+at.Max.Y)/2
		if upright {
			c.StrokeLine2(sty, x, at.Min.Y, x, at.Max.Y)
		} else {
			c.StrokeLine2(sty, at.Min.X, y, at.Max.X, y)
		}
	}
}
