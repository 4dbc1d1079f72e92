package report

import (
	"math"
	"strconv"

	"golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// blank is a plot with plain axes from 0, and a place for a heading.
func blank() *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Title.TextStyle, p.Title.Padding = " ", bold(), 3
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Min, axis.Max, axis.Padding = 0, 1, 0
		axis.LineStyle.Color, axis.LineStyle.Width = grey, 0.7
		axis.Tick.LineStyle, axis.Tick.Length = axis.LineStyle, 3
		axis.Tick.Label.Font = style(small).Font
	}
	return p
}

func bold() draw.TextStyle {
	sty := style(small + 1)
	sty.Font.Weight = font.WeightBold
	return sty
}

// heading is a title that begins where the data does; plot's own stands in the middle and only keeps the place.
type heading string

// Plot implements plot.Plotter.
func (h heading) Plot(c draw.Canvas, _ *plot.Plot) {
	sty := bold()
	sty.YAlign = draw.YBottom
	c.FillText(sty, vg.Point{X: c.Min.X, Y: c.Max.Y + 4}, string(h))
}

// grid is a line at each labelled tick of the axis, or of both.
type grid struct{ both bool }

// Plot implements plot.Plotter.
func (g grid) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	sty := draw.LineStyle{Color: light, Width: 0.5}
	for _, at := range labelled(p.X) {
		c.StrokeLine2(sty, x(at), c.Min.Y, x(at), c.Max.Y)
	}
	if !g.both {
		return
	}
	for _, at := range labelled(p.Y) {
		c.StrokeLine2(sty, c.Min.X, y(at), c.Max.X, y(at))
	}
}

// round returns up to five round ticks from 0 to most; notes stand beyond it.
func round(most float64) plot.ConstantTicks {
	step := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, f := range []float64{1, 2, 5, 10} {
		if most/(f*step) <= 4 {
			step *= f
			break
		}
	}
	var ticks plot.ConstantTicks
	for i := 0; float64(i)*step <= most; i++ {
		ticks = append(ticks, plot.Tick{Value: float64(i) * step, Label: strconv.FormatFloat(float64(i)*step, 'g', 4, 64)})
	}
	return ticks
}

// labelled returns the values of the ticks that have a label and are in range.
func labelled(a plot.Axis) []float64 {
	var values []float64
	for _, t := range a.Tick.Marker.Ticks(a.Min, a.Max) {
		if !t.IsMinor() && t.Value >= a.Min && t.Value <= a.Max {
			values = append(values, t.Value)
		}
	}
	return values
}
