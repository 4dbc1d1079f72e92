package report

import (
	"slices"

	"gonum.org/v1/plot/vg"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// coldFigure shows the cold starts over one link: a chart for each workload, with its own scale.
func (d *document) coldFigure(rows []*result.Row, link string) *figure {
	names := d.here(rows)
	f := &figure{title: "Cold starts, " + link + ": seconds until ready, and ratio to " + result.Baseline, cols: 3, height: tall(names)}
	f.legend = []entry{
		{"pull", block(grey)}, {"create to ready (paler)", block(pale(grey))},
		{"estimated floor", stroke(marker, true)}, {"range of the total", stroke(whisker, false)}, ownScale,
	}
	if slices.ContainsFunc(rows, atOnce) {
		f.legend = slices.Insert(f.legend, 2, entry{"total of several at once (hollow)", hollow(grey)})
	}
	for _, workload := range distinct(rows, subject) {
		var b bars
		for _, name := range names {
			b = append(b, d.coldBar(find(choose(rows, subject, workload), link, name)))
		}
		f.add(b, workload, names)
	}
	f.cols = min(f.cols, len(f.tiles))
	return f
}

// add appends a chart; only the first of each line has the names.
func (f *figure) add(b bars, title string, names []string) {
	if len(f.tiles)%f.cols > 0 {
		names = nil
	}
	f.tiles = append(f.tiles, b.tile(title, names))
}

// tall is the height of a chart with a bar for each name.
func tall(names []string) vg.Length { return vg.Length(len(names))*15 + 34 }

// coldBar stacks what comes after the pull on it so that the bar ends at the median of the totals, which is what the table says; the
// medians of the two parts may have another sum. Of several at once the parts are means, and the bar is the total alone.
func (d *document) coldBar(r *result.Row) bar {
	b := d.plainBar(r, result.Total)
	if b.gone != nil {
		return b
	}
	switch {
	case atOnce(r):
		b.edge, b.fills[0] = b.fills[0], white
	case has(r, result.Pull):
		pull := min(median(r, result.Pull), b.span.Median)
		b.fills = append(b.fills, pale(b.fills[0]))
		b.ends = []float64{pull, b.span.Median}
	}
	if r.Floor != nil {
		b.mark = r.Floor.Seconds
	}
	return b
}

// plainBar is a bar for m; its note is the median and the ratio.
func (d *document) plainBar(r *result.Row, m result.Measure) bar {
	switch {
	case r == nil:
		return bar{gone: grey, note: "not measured"}
	case !r.OK():
		return bar{gone: red, note: verdict(r)}
	case !has(r, m):
		return bar{gone: grey, note: "not measured"}
	}
	u, s := unitOf(m), result.Summarize(r.Measures[m])
	b := bar{span: scaled(s, u), note: u.number(s.Median)}
	b.fills, b.ends = append(b.fills, d.colours[r.System].colour), []float64{b.span.Median}
	if v, ok := d.report.Ratio(r, m); ok && r.System != result.Baseline {
		b.note += "  " + times(v)
	}
	return b
}

// scaled is the summary in the unit.
func scaled(s result.Summary, u unit) result.Summary {
	s.Median, s.Min, s.Max = s.Median/u.size, s.Min/u.size, s.Max/u.size
	return s
}

// steadyFigure shows the operations that are judged by m: a chart for each operation and each of its cases.
func (d *document) steadyFigure(rows []*result.Row, m result.Measure, title string) *figure {
	names, cases := d.here(rows), distinct(rows, kase)
	title = "Steady state: " + title + ", and ratio to " + result.Baseline
	if m.More() {
		title += "; more is better"
	}
	f := &figure{title: title, cols: 3, height: tall(names), legend: []entry{{"range", stroke(whisker, false)}, ownScale}}
	if n := len(cases); n == 2 || n == 4 {
		f.cols = 2
	}
	for _, operation := range distinct(rows, subject) {
		of := choose(rows, subject, operation)
		for _, c := range distinct(of, kase) {
			var b bars
			for _, name := range names {
				b = append(b, d.plainBar(find(of, c, name), m))
			}
			f.add(b, operation+": "+c, names)
		}
	}
	f.cols = min(f.cols, len(f.tiles))
	return f
}
