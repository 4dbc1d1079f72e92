package report

import (
	"slices"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

const steadyText = "In a *first read* nothing of the contents is on the node; Sluice's fetching in the background is off, so that what comes is what " +
	"the operation asks for. Other lazy snapshotters are as they are configured. Overlayfs has unpacked everything by then, in a pull that " +
	"is not timed here: its first read is one from disk. In *incomplete* states everything that is read has come before, and " +
	"the rest of the layers has not, with the background off as well; overlayfs, which knows no such state, is measured once more in turn. *Little memory* " +
	"is half as much as the file has bytes, for the container and the page cache of what it reads. The times of *find* and *tar* include passing on what they print through a pipe."

// steady writes the section for the use of mounts: plots per kind of measure, and a table per operation.
func (d *document) steady() error {
	rows := d.section(result.Steady)
	if len(rows) == 0 {
		return nil
	}
	d.printf("## Steady state\n\nOne operation on a mount, by the state of the mount and of the page cache. %s\n\n", steadyText)
	for _, kind := range []struct {
		measure result.Measure
		name    string
		title   string
	}{
		{result.Throughput, "throughput", "throughput in MB/s"},
		{result.Rate, "rate", "operations per second"},
		{result.Seconds, "time", "seconds"},
	} {
		of := measuredBy(rows, kind.measure)
		if len(of) == 0 {
			continue
		}
		if err := d.plot(d.steadyFigure(of, kind.measure, kind.title), "steady", kind.name); err != nil {
			return err
		}
	}
	for _, operation := range distinct(rows, subject) {
		d.operation(choose(rows, subject, operation))
	}
	d.steadyMemory(rows)
	return nil
}

// steadyMemory is the table of the snapshotters' memory, which is measured when they have served the whole image.
func (d *document) steadyMemory(rows []*result.Row) {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r *result.Row) bool { return !has(r, result.RSS) })
	if len(rows) == 0 {
		return
	}
	d.printf("### Peak RSS of the snapshotter after reading everything, MB\n\nSince it started: it has fetched the whole image, and served ")
	d.printf("it to every operation up to %s.\n\n", escape(rows[0].Subject))
	d.byCase(rows, result.RSS, distinct(rows, kase))
}

// operation writes the table of the rows, which are those of one operation.
func (d *document) operation(rows []*result.Row) {
	m := mainOf(rows)
	d.printf("### %s, %s\n\n", escape(rows[0].Subject), unitOf(m).name)
	if m.More() {
		d.printf("More is better: a ratio above 1 is faster than %s.\n\n", result.Baseline)
	}
	d.byCase(rows, m, distinct(rows, kase))
	d.failures(rows)
}

// byCase is a table of m with a line per system and a column per case, with ratios.
func (d *document) byCase(rows []*result.Row, m result.Measure, cases []string) {
	head := append([]string{unitOf(m).name}, escapeAll(cases)...)
	var lines [][]string
	for _, name := range d.here(rows) {
		cells := []string{escape(name)}
		for _, c := range cases {
			cells = append(cells, d.compared(find(rows, c, name), m))
		}
		lines = append(lines, cells)
	}
	d.table(head, lines)
}

// compared is a cell with the ratio to the baseline.
func (d *document) compared(r *result.Row, m result.Measure) string {
	switch {
	case r == nil:
		return none
	case !r.OK():
		return verdict(r)
	}
	text := cell(r, m)
	if v, ok := d.report.Ratio(r, m); ok && r.System != r.Baseline() {
		text += ", " + times(v)
	}
	return text
}

// failures gives the reasons for the cells that say FAILED.
func (d *document) failures(rows []*result.Row) {
	found := false
	for _, r := range rows {
		if len(r.Failed) > 0 {
			d.printf("- %s, %s: %s\n", escape(r.System), escape(r.Case), failure(r))
			found = true
		}
	}
	if found {
		d.printf("\n")
	}
}

// mainOf is the main measure of the rows of one subject. Rows that failed may lack it.
func mainOf(rows []*result.Row) result.Measure {
	if first := best(rows); first != nil {
		return first.Main()
	}
	return rows[0].Main()
}

// measuredBy returns the rows whose subject is judged by m.
func measuredBy(rows []*result.Row, m result.Measure) []*result.Row {
	var of []*result.Row
	for _, name := range distinct(rows, subject) {
		if these := choose(rows, subject, name); mainOf(these) == m {
			of = append(of, these...)
		}
	}
	return of
}
