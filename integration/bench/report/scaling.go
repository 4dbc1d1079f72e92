package report

import (
	"cmp"
	"slices"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// growing are the measures of which growth is shown.
var growing = []column{
	{"total, s", result.Total},
	{"MB until ready", result.BytesReady},
	{"requests until ready", result.RequestsReady},
	{"peak RSS, MB", result.RSS},
}

// scaling writes the section for what grows: for each subject a plot, and a table per measure.
func (d *document) scaling() error {
	rows := d.section(result.Scaling)
	if len(rows) == 0 {
		return nil
	}
	d.printf("## Scaling\n\nA cold start of something that grows.\n\n")
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
		d.failures(these)
		d.repeated(these)
	}
	return nil
}

// measured says whether any of the rows has m.
func measured(rows []*result.Row, m result.Measure) bool {
	return slices.ContainsFunc(rows, func(r *result.Row) bool { return has(r, m) })
}
