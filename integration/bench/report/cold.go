package report

import (
	"cmp"
	"slices"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

const floorText = "The *floor* is what no system can beat: the dependent round trips of the start times the latency of the link, and then " +
	"the longer of two things that can go on side by side: the bytes that have to come over the link's bandwidth, and the same " +
	"command on a local overlayfs with a warm page cache. Total/floor says how far from it a system is; 1 would be perfect."

// cold writes the section for cold starts: for each link who is ahead, a plot, and two tables per workload.
func (d *document) cold() error {
	rows := d.section(result.Cold)
	if len(rows) == 0 {
		return nil
	}
	d.printf("## Cold starts\n\n*Pull* is from the request to pull until the image is there, *create to ready* from the request to ")
	d.printf("create a container until its program is ready; the total of both is what counts.\n\n%s\n\n", floorText)
	for _, link := range distinct(rows, kase) {
		there := choose(rows, kase, link)
		d.printf("### Cold starts, %s\n\n", escape(link))
		d.totals(there)
		if err := d.plot(d.coldFigure(there, link), "cold", link); err != nil {
			return err
		}
		for _, workload := range distinct(there, subject) {
			rivals := ranked(choose(there, subject, workload))
			d.printf("#### %s, %s\n\n", escape(workload), escape(link))
			d.coldTimes(rivals)
			d.coldCosts(rivals)
			d.repeated(rivals)
		}
	}
	return nil
}

// totals is the table that shows at once who is ahead with which workload.
func (d *document) totals(rows []*result.Row) {
	names := d.here(rows)
	head := []string{"total, s"}
	for _, name := range names {
		head = append(head, escape(name))
	}
	var lines [][]string
	for _, workload := range distinct(rows, subject) {
		rivals := choose(rows, subject, workload)
		cells := []string{escape(workload)}
		for _, name := range names {
			cells = append(cells, d.total(find(rivals, rows[0].Case, name), best(rivals)))
		}
		lines = append(lines, cells)
	}
	d.printf("Total and ratio; the fastest is bold.\n\n")
	d.table(head, lines)
}

// total is the cell of a row among rivals of which first is the fastest.
func (d *document) total(r, first *result.Row) string {
	switch {
	case r == nil:
		return none
	case !r.OK():
		return verdict(r)
	}
	text := unitOf(result.Total).number(median(r, result.Total))
	if v, ok := d.report.Ratio(r, result.Total); ok && r.System != result.Baseline {
		text += ", " + times(v)
	}
	if r == first {
		return "**" + text + "**"
	}
	return text
}

// ranked puts the fastest first and those that failed last.
func ranked(rows []*result.Row) []*result.Row {
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b *result.Row) int {
		switch {
		case !a.OK() && !b.OK():
			return 0
		case !a.OK():
			return 1
		case !b.OK():
			return -1
		}
		return cmp.Compare(median(a, result.Total), median(b, result.Total))
	})
	return rows
}

// coldTimes is the table of the rivals' times. Only here do failures give their reasons.
func (d *document) coldTimes(rivals []*result.Row) {
	head := []string{"fastest first", "pull, s", "create to ready, s", "total, s", "ratio", "floor, s", "total/floor"}
	var lines [][]string
	for _, r := range rivals {
		cells := []string{escape(r.System), failure(r), "", "", "", "", ""}
		if r.OK() {
			floor, above := floor(r)
			cells = []string{escape(r.System), cell(r, result.Pull), cell(r, result.Run), "**" + cell(r, result.Total) + "**",
				d.ratio(r, result.Total), floor, above}
		}
		lines = append(lines, cells)
	}
	d.table(head, lines)
}

// repeated says which repetitions do not count.
func (d *document) repeated(rows []*result.Row) {
	for _, r := range rows {
		if r.Repeated > 0 {
			d.printf("%s: %d repetitions were done again, because the end of a container's output got lost.\n\n", escape(r.System), r.Repeated)
		}
	}
}

// floor returns the row's floor, and how far above it the row is.
func floor(r *result.Row) (seconds, above string) {
	if r.Floor == nil || r.Floor.Seconds <= 0 || !has(r, result.Total) {
		return none, none
	}
	return unitOf(result.Total).number(r.Floor.Seconds), times(median(r, result.Total) / r.Floor.Seconds)
}
