package report

import (
	"fmt"
	"strings"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// taken is what a system may need more of than one that is slower.
var taken = []struct {
	measure result.Measure
	what    string
}{
	{result.BytesReady, "MB until ready"},
	{result.CPU, "s of CPU"},
	{result.RSS, "MB of peak RSS"},
	{result.PageCache, "MB of page cache"},
	{result.Disk, "MB on disk"},
}

// more lists where Sluice needs clearly more of something than the rival that needs least.
func (d *document) more() {
	var lines []string
	for _, r := range d.report.Rows {
		var parts []string
		for _, t := range taken {
			if !ours(r.System) || !has(r, t.measure) {
				continue
			}
			if least := d.least(r, t.measure); least != nil && better(least, r, t.measure) && differ(r, least, t.measure, muchNoise) {
				u := unitOf(t.measure)
				mine, theirs := u.number(median(r, t.measure)), u.number(median(least, t.measure))
				parts = append(parts, fmt.Sprintf("%s %s (%s %s)", mine, t.what, escape(least.System), theirs))
			}
		}
		if len(parts) > 0 {
			lines = append(lines, fmt.Sprintf("%s: %s", escape(r.Name()), strings.Join(parts, ", ")))
		}
	}
	d.printf("## More of something else than a rival\n\nPeak RSS is the snapshotter's. Clearly more is by more than %.0f %%, with ranges that do not overlap.\n\n", 100*muchNoise)
	d.list("Rows in which Sluice needs clearly more than the rival that needs least", lines)
}

// least returns the rival of r with the smallest median of m, or nil.
func (d *document) least(r *result.Row, m result.Measure) *result.Row {
	var first *result.Row
	for _, rival := range d.rivals(r, m) {
		if first == nil || better(rival, first, m) {
			first = rival
		}
	}
	return first
}
