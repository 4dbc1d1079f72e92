package report

import (
	"image/color"

	"gonum.org/v1/plot/vg/draw"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// look is how a system appears in every plot: a glyph too, because colour is not enough for everybody.
type look struct {
	colour color.Color
	glyph  draw.GlyphDrawer
}

// The colours of Okabe and Ito, which people with any colour vision can tell apart (jfly.uni-koeln.de/color), and grey for the
// baseline. Yellow is last, because it is weak on white.
var (
	grey      = color.NRGBA{R: 0x80, G: 0x80, B: 0x80, A: 0xff}
	blue      = color.NRGBA{R: 0x00, G: 0x72, B: 0xb2, A: 0xff}
	skyBlue   = color.NRGBA{R: 0x56, G: 0xb4, B: 0xe9, A: 0xff}
	green     = color.NRGBA{R: 0x00, G: 0x9e, B: 0x73, A: 0xff}
	purple    = color.NRGBA{R: 0xcc, G: 0x79, B: 0xa7, A: 0xff}
	orange    = color.NRGBA{R: 0xe6, G: 0x9f, B: 0x00, A: 0xff}
	vermilion = color.NRGBA{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff}
	black     = color.NRGBA{A: 0xff}
	yellow    = color.NRGBA{R: 0xf0, G: 0xe4, B: 0x42, A: 0xff}
)

var (
	oursLook = []look{
		{blue, draw.CircleGlyph{}}, {skyBlue, draw.BoxGlyph{}}, {green, draw.PyramidGlyph{}}, {purple, draw.RingGlyph{}},
	}
	theirLook = []look{
		{orange, draw.TriangleGlyph{}}, {vermilion, draw.SquareGlyph{}}, {black, draw.CircleGlyph{}}, {yellow, draw.BoxGlyph{}},
	}
)

// palette gives each system its look. Beyond eight and the baseline they repeat.
func palette(systems []string) map[string]look {
	looks := make(map[string]look)
	var mine, theirs int
	for _, name := range systems {
		switch {
		case name == result.Baseline:
			looks[name] = look{grey, draw.PlusGlyph{}}
		case ours(name):
			looks[name] = oursLook[mine%len(oursLook)]
			mine++
		default:
			looks[name] = theirLook[theirs%len(theirLook)]
			theirs++
		}
	}
	return looks
}

// pale is the colour mixed with white.
func pale(c color.Color) color.Color {
	const keep = 0.4
	n := color.NRGBAModel.Convert(c).(color.NRGBA)
	mix := func(v uint8) uint8 { return uint8(keep*float64(v) + (1-keep)*255) }
	return color.NRGBA{R: mix(n.R), G: mix(n.G), B: mix(n.B), A: n.A}
}
