package result

import (
	"math"
	"testing"
)

func report(rows ...*Row) *Report { return &Report{Rows: rows} }

func TestCompare(t *testing.T) {
	old := report(row(Baseline, 4), row("same", 2), row("slower", 2), row("gone", 2), broken(row("repaired", 2)), row("broke", 2))
	now := report(row(Baseline, 8), row("same", 4), row("slower", 6), row("new", 2), row("repaired", 2), broken(row("broke", 2)))
	changes := make(map[string]Change)
	for _, c := range Compare(old, now) {
		if _, twice := changes[c.Row.System]; twice {
			t.Errorf("%s is there twice", c.Row.System)
		}
		changes[c.Row.System] = c
	}
	if len(changes) != 6 {
		t.Errorf("%d changes", len(changes))
	}
	if _, there := changes[Baseline]; there {
		t.Error("the baseline is compared with itself")
	}
	for _, name := range []string{"gone", "new", "repaired", "broke"} {
		if c, there := changes[name]; !there || !c.Missing || c.Within(math.Inf(1)) {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if c := changes["same"]; c.Missing || c.Old != 0.5 || c.New != 0.5 || c.Difference != 0 || c.Measure != Total {
		t.Errorf("same: %+v", c)
	}
	if c := changes["slower"]; c.Missing || c.Old != 0.5 || c.New != 0.75 || c.Difference != 0.5 {
		t.Errorf("slower: %+v", c)
	}
}

// A baseline that failed leaves nothing to compare on its side.
func TestCompareWithoutBaseline(t *testing.T) {
	whole, without := report(row(Baseline, 4), row("sluice", 2)), report(broken(row(Baseline, 4)), row("sluice", 2))
	for _, changes := range [][]Change{Compare(whole, without), Compare(without, whole)} {
		if len(changes) != 1 || !changes[0].Missing {
			t.Errorf("%+v", changes)
		}
	}
}

func TestWithin(t *testing.T) {
	for name, c := range map[string]struct {
		change Change
		want   bool
	}{
		"same":    {Change{}, true},
		"less":    {Change{Difference: -0.1}, true},
		"limit":   {Change{Difference: 0.2}, true},
		"more":    {Change{Difference: 0.3}, false},
		"missing": {Change{Missing: true}, false},
	} {
		if got := c.change.Within(0.2); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
