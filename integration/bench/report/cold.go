package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

const floorText = "The *estimated floor* is what the best start could reach, not a bound that is proven: the round trips that depend on each " +
	"other times the link's latency, and then the longer of two things that can go on side by side. One is the transfer of the bytes " +
	"that a run touched: the pages that it left in the page cache, compressed with gzip -6; for an ordinary image, which cannot be read in " +
	"pieces, the whole image. The other is the fastest local run: the same command on an unpacked image in the page cache. The bytes " +
	"and the round trips stand beside it. Total/floor says how far above it a system is."

const atOnceText = "Several containers start at once: pull and create to ready are means over them, and the total ends when the last of them is " +
	"ready, so that the two do not add up to it."

// cold writes the section for cold starts: for each link who is ahead, a plot, and two tables per workload.
func (d *document) cold() error {
	rows := d.section(result.Cold)
	if len(rows) == 0 {
		return nil
	}
	d.printf("## Cold starts\n\n*Pull* is from the request to pull until the image is there, *create to ready* from the request to ")
	d.printf("create a container until its program is ready; the total of both is what counts. Where several containers start at once the ")
	d.printf("two are means, and do not add up to the total, which ends when the last is ready.\n\n%s\n\n", floorText)
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
			d.remarks(rivals)
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
	d.printf("Total and ratio; the smallest median is bold.\n\n")
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
	head := []string{"fastest first", "pull, s", "create to ready, s", "total, s", "ratio", "estimated floor, s", "total/floor"}
	var lines [][]string
	for _, r := range rivals {
		cells := []string{escape(r.System), failure(r), "", "", "", "", ""}
		if r.OK() {
			floor, above := floor(r)
			cells = []string{escape(r.System), timing(r, result.Pull), timing(r, result.Run), "**" + timing(r, result.Total) + "**",
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

// remarks say what has to be known to read the table of the rivals' times.
func (d *document) remarks(rivals []*result.Row) {
	if slices.ContainsFunc(rivals, atOnce) {
		d.printf("%s\n\n", atOnceText)
	}
	if slices.ContainsFunc(rivals, func(r *result.Row) bool { return r.OK() && many(r, result.Total) }) {
		d.printf("Means are beside the medians because the study that this follows gives means.\n\n")
	}
}

// atOnce says whether several containers started at the same moment in a cold start: the subject says so.
func atOnce(r *result.Row) bool { return strings.Contains(r.Subject, "at once") }

// floor returns the row's estimated floor with its bytes and round trips, and how far above it the row is.
func floor(r *result.Row) (seconds, above string) {
	if !hasFloor(r) {
		return none, none
	}
	f := r.Floor
	seconds = fmt.Sprintf("%s (%s MB, %d trips)", unitOf(result.Total).number(f.Seconds), unitOf(result.BytesReady).number(f.Bytes), f.RoundTrips)
	return seconds, times(median(r, result.Total) / f.Seconds)
}

func hasFloor(r *result.Row) bool {
	return r.Floor != nil && r.Floor.Seconds > 0 && has(r, result.Total)
}
