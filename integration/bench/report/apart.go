package report

import "github.com/sluice-snapshotter/sluice/integration/bench/result"

// What is less than noise: a difference of medians by this part, if it is to be ahead, and if it is to be more of something else.
const (
	noise     = 0.05
	muchNoise = 0.10
)

// apart says whether the medians differ by at least the part, and no repetition of one is in the range of the other.
func apart(a, b result.Summary, part float64) bool {
	low, high := min(a.Median, b.Median), max(a.Median, b.Median)
	return (a.Max < b.Min || b.Max < a.Min) && high-low >= part*low
}

// differ is apart for two rows.
func differ(a, b *result.Row, m result.Measure, part float64) bool {
	return apart(result.Summarize(a.Measures[m]), result.Summarize(b.Measures[m]), part)
}

// rivals are the rows of systems other than Sluice that were measured by m in the situation of r, and that one would use instead of it.
func (d *document) rivals(r *result.Row, m result.Measure) []*result.Row {
	var list []*result.Row
	for _, other := range d.report.Rows {
		if !ours(other.System) && r.Rivals(other) && has(other, m) && d.alike(r, other) {
			list = append(list, other)
		}
	}
	return list
}

// alike says whether two systems answer the same question: the baseline stands beside everything; a form of image that Sluice reads too
// beside the same form, so that nobody is blamed for a prefetch list that is not there; and a form of the other's own beside every form.
func (d *document) alike(r, other *result.Row) bool {
	if other.System == result.Baseline || r.Form == "" || other.Form == "" || r.Form == other.Form {
		return true
	}
	for _, same := range d.report.Rows {
		if ours(same.System) && same.Form == other.Form && same.Rivals(r) {
			return false
		}
	}
	return true
}
