package report

import (
	"cmp"
	"slices"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// growing are the measures of which growth is shown.
var growing = []column{
	{"total, s", result.Total},
	{"pull, s", result.Pull},
	{"all Prepare calls, s", result.Prepare},
	{"MB until ready", result.BytesReady},
	{"requests until ready", result.RequestsReady},
	{"snapshotter's peak RSS, MB", result.RSS},
	{"containerd's peak RSS, MB", result.ContainerdRSS},
}

// scaling writes the section for what grows: for each subject a plot, and a table per measure.
func (d *document) scaling() error {
	rows := d.section(result.Scaling)
	if len(rows) == 0 {
		return nil
	}
	d.printf("## Scaling\n\nA cold start of something that grows. Where several containers start at once, the total ends when the last of ")
	d.printf("them is ready, while pull is a mean over the containers, as is create to ready, which is in report.json: they do not add up ")
	d.printf("to the total. The estimated floor is that of the cold starts.\n\n")
	for _, what := range distinct(rows, subject) {
		these := choose(rows, subject, what)
		slices.SortStableFunc(these, func(a, b *result.Row) int { return cmp.Compare(a.X, b.X) })
		d.printf("### Number of %s\n\n", escape(what))
		if err := d.plot(d.scalingFigure(these), "scaling", what); err != nil {
			return err
		}
		for _, c := range growing {
			if measured(these, c.measure) {
				d.printf("%s:\n\n", c.head)
				d.byCase(these, c.measure, distinct(these, kase))
			}
		}
		d.floors(these)
		d.failures(these)
		d.repeated(these)
	}
	return nil
}

// floors is a table like byCase of how far above its estimated floor each total is.
func (d *document) floors(rows []*result.Row) {
	if !slices.ContainsFunc(rows, hasFloor) {
		return
	}
	cases := distinct(rows, kase)
	var lines [][]string
	for _, name := range d.here(rows) {
		cells := []string{escape(name)}
		for _, c := range cases {
			seconds, above := none, none
			if r := find(rows, c, name); r != nil {
				seconds, above = floor(r)
			}
			if above != none {
				above += " of " + seconds
			}
			cells = append(cells, above)
		}
		lines = append(lines, cells)
	}
	d.printf("total/estimated floor, s:\n\n")
	d.table(append([]string{"s"}, escapeAll(cases)...), lines)
}

// measured says whether any of the rows has m.
func measured(rows []*result.Row, m result.Measure) bool {
	return slices.ContainsFunc(rows, func(r *result.Row) bool { return has(r, m) })
}
