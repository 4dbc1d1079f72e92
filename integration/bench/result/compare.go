package result

import "math"

// Change is how the ratio of one row to the baseline differs between two reports.
type Change struct {
	Row        *Row // in the second report
	Measure    Measure
	Old, New   float64 // ratios
	Difference float64 // New against Old: 0.1 is a tenth more
	Missing    bool    // the row failed or is not there in one of them, so that there is nothing to compare
}

// Main is the measure by which a row is judged: the first of Total, WaitP95, Seconds, Throughput and Rate that it has.
func (r *Row) Main() Measure {
	for _, m := range []Measure{Total, WaitP95, Seconds, Throughput, Rate} {
		if len(r.Measures[m]) > 0 {
			return m
		}
	}
	return Total
}

// Compare returns a change for each row of either report that is not its baseline.
func Compare(old, now *Report) []Change {
	var changes []Change
	for _, r := range now.Rows {
		if r.System == r.Baseline() {
			continue
		}
		c := Change{Row: r, Measure: r.Main(), Missing: true}
		if before := old.Find(r.Section, r.Subject, r.Case, r.System); before != nil {
			was, ok := old.Ratio(before, c.Measure)
			is, ok2 := now.Ratio(r, c.Measure)
			if ok && ok2 {
				c.Old, c.New, c.Difference, c.Missing = was, is, is/was-1, false
			}
		}
		changes = append(changes, c)
	}
	for _, r := range old.Rows {
		if r.System != r.Baseline() && now.Find(r.Section, r.Subject, r.Case, r.System) == nil {
			changes = append(changes, Change{Row: r, Measure: r.Main(), Missing: true})
		}
	}
	return changes
}

// Within says whether the two ratios agree within a part, as 0.2.
func (c Change) Within(part float64) bool { return !c.Missing && math.Abs(c.Difference) <= part }
