package report

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/image/font"
	"gonum.org/v1/plot"
	plotfont "gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	width  = 750 * vg.Length(1) // points: 1000 pixels of CSS
	margin = 10 * vg.Length(1)
	dpi    = 144 // of the PNG, whose pixels are then 1500
	small  = 8 * vg.Length(1)
)

// figure is one picture: a title, a legend, and a grid of small plots with a scale each.
type figure struct {
	title  string
	legend []entry
	tiles  []*plot.Plot // row by row
	cols   int
	height vg.Length // of a tile
}

// save writes path.svg and path.png.
func (f *figure) save(path string) error {
	height := f.headHeight() + vg.Length(f.rows())*(f.height+margin) + margin
	svg := vgsvg.New(width, height)
	f.draw(draw.New(svg))
	png := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(dpi))
	f.draw(draw.New(png))
	return errors.Join(write(path+".svg", portable{svg}), write(path+".png", vgimg.PngCanvas{Canvas: png}))
}

func write(path string, content io.WriterTo) error {
	var b bytes.Buffer
	if _, err := content.WriteTo(&b); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// portable names fonts of the same widths in an SVG, for those who see it without Liberation. Embedded fonts would be half a
// megabyte for each picture, and the headers with which code hosts serve pictures forbid them.
type portable struct{ *vgsvg.Canvas }

func (p portable) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	if _, err := p.Canvas.WriteTo(&b); err != nil {
		return 0, err
	}
	svg := strings.ReplaceAll(b.String(), "font-family:Liberation Sans;", "font-family:Liberation Sans,Arial,Helvetica,sans-serif;")
	n, err := io.WriteString(w, svg)
	return int64(n), err
}

func (f *figure) rows() int { return (len(f.tiles) + f.cols - 1) / f.cols }

// draw draws the whole figure.
func (f *figure) draw(c draw.Canvas) {
	c.FillPolygon(white, corners(c.Rectangle))
	c = draw.Crop(c, margin, -margin, margin, -margin)
	title := style(12)
	title.Font.Weight = font.WeightBold
	title.YAlign = draw.YTop
	c.FillText(title, vg.Point{X: c.Min.X, Y: c.Max.Y}, f.title)
	f.drawLegend(c)
	grid := f.grid()
	tiles := draw.Tiles{Cols: f.cols, Rows: len(grid), PadX: margin, PadY: margin}
	for j, row := range plot.Align(grid, tiles, draw.Crop(c, 0, 0, 0, -f.headHeight())) {
		for i, tile := range row {
			if grid[j][i] != nil {
				grid[j][i].Draw(tile)
			}
		}
	}
}

// grid is the tiles as rows of the same length; where there are too few it has nil.
func (f *figure) grid() [][]*plot.Plot {
	grid := make([][]*plot.Plot, f.rows())
	for j := range grid {
		grid[j] = make([]*plot.Plot, f.cols)
		copy(grid[j], f.tiles[j*f.cols:])
	}
	return grid
}

// style is plain text, aligned left and in the middle.
func style(size vg.Length) text.Style {
	return text.Style{
		Color:   black,
		Font:    plotfont.From(plotfont.Font{Typeface: "Liberation", Variant: "Sans"}, size),
		YAlign:  draw.YCenter,
		Handler: plot.DefaultTextHandler,
	}
}

func corners(r vg.Rectangle) []vg.Point {
	return []vg.Point{r.Min, {X: r.Max.X, Y: r.Min.Y}, r.Max, {X: r.Min.X, Y: r.Max.Y}}
}
