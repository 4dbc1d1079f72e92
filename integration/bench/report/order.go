package report

import (
	"slices"
	"strings"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

func subject(r *result.Row) string { return r.Subject }
func kase(r *result.Row) string    { return r.Case }
func system(r *result.Row) string  { return r.System }

// ours says whether the system is Sluice, with whatever image. The name is enough: the suite refuses peers whose names begin with
// "sluice" (system.ReadPeers).
func ours(system string) bool { return strings.HasPrefix(system, "sluice") }

// choose returns the rows for which key is value.
func choose(rows []*result.Row, key func(*result.Row) string, value string) []*result.Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r *result.Row) bool { return key(r) != value })
}

// section returns the rows of one.
func (d *document) section(s result.Section) []*result.Row {
	return choose(d.report.Rows, func(r *result.Row) string { return string(r.Section) }, string(s))
}

// distinct returns the values of key in the order in which they appear.
func distinct(rows []*result.Row, key func(*result.Row) string) []string {
	var values []string
	for _, r := range rows {
		if !slices.Contains(values, key(r)) {
			values = append(values, key(r))
		}
	}
	return values
}

// systems returns the systems of the rows: the baseline, Sluice, the others.
func systems(rows []*result.Row) []string {
	names := distinct(rows, system)
	rank := func(name string) int {
		switch {
		case name == result.Baseline:
			return 0
		case ours(name):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	return names
}

// here returns the systems that the rows have, in the order of the document.
func (d *document) here(rows []*result.Row) []string {
	have := distinct(rows, system)
	return slices.DeleteFunc(slices.Clone(d.systems), func(name string) bool { return !slices.Contains(have, name) })
}

// find returns the row of a case and a system among those of one subject, or nil.
func find(rows []*result.Row, ofCase, ofSystem string) *result.Row {
	for _, r := range rows {
		if r.Case == ofCase && r.System == ofSystem {
			return r
		}
	}
	return nil
}

// better says whether a has the better median of m. Whether that means anything is for apart to say.
func better(a, b *result.Row, m result.Measure) bool {
	x, y := median(a, m), median(b, m)
	if m.More() {
		return x > y
	}
	return x < y
}

// best returns the row with the best median of its main measure among those that are OK, or nil.
func best(rows []*result.Row) *result.Row {
	var first *result.Row
	for _, r := range rows {
		if r.OK() && (first == nil || (first.Main() == r.Main() && better(r, first, r.Main()))) {
			first = r
		}
	}
	return first
}

func median(r *result.Row, m result.Measure) float64 { return result.Summarize(r.Measures[m]).Median }

// has says whether the row may show m.
func has(r *result.Row, m result.Measure) bool { return r != nil && r.OK() && len(r.Measures[m]) > 0 }
