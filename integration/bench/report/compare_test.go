package report

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/bench/meter"
	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

func TestApart(t *testing.T) {
	for name, c := range map[string]struct {
		a, b []float64
		want bool
	}{
		"far":                      {[]float64{1, 2, 3}, []float64{4, 5, 6}, true},
		"the other way":            {[]float64{4, 5, 6}, []float64{1, 2, 3}, true},
		"ranges overlap":           {[]float64{1, 2, 5}, []float64{4, 6, 7}, false},
		"one range in the other":   {[]float64{1, 9, 10}, []float64{2, 3, 4}, false},
		"ranges touch":             {[]float64{1, 2, 3}, []float64{3, 4, 5}, false},
		"disjoint, but less than":  {[]float64{1.00, 1.01}, []float64{1.03, 1.04}, false},
		"one repetition, far":      {[]float64{1}, []float64{2}, true},
		"one repetition, less":     {[]float64{1}, []float64{1.04}, false},
		"the same":                 {[]float64{1}, []float64{1}, false},
		"zeros":                    {[]float64{0}, []float64{0}, false},
		"nothing and something":    {[]float64{0}, []float64{1}, true},
		"the part is of the lower": {[]float64{100}, []float64{105.1}, true},
	} {
		if got := apart(result.Summarize(c.a), result.Summarize(c.b), noise); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A row can be behind one and level with another.
func TestStanding(t *testing.T) {
	mine := coldRow("redis", slow, "sluice", 2)
	d := &document{report: &result.Report{Rows: []*result.Row{
		mine, coldRow("redis", slow, "sluice esgz", 1), coldRow("redis", slow, "overlayfs", 2.1), coldRow("redis", slow, "fast", 1),
		coldRow("redis", slow, "slow", 9), coldRow("redis", like, "elsewhere", 1), failed(coldRow("redis", slow, "broken", 1), "no"),
	}}}
	s := d.standing(mine)
	if want := "cold/redis/10 ms, 100 MB/s/sluice: 2.00 s; ahead: fast 1.00 s (2.00×); level with overlayfs 2.10 s (0.95×)"; s.line() != want || s.behind != 1 || s.behindPeers != 1 {
		t.Errorf("%s, and %d behind", s.line(), s.behind)
	}
}

// The baseline counts too: whoever brings more than all of an image has something to explain.
func TestMoreThanBaseline(t *testing.T) {
	base, mine := coldRow("redis", slow, "overlayfs", 1), coldRow("redis", slow, "sluice", 2)
	base.Measures[result.RSS] = []float64{30e6}
	for name, c := range map[string]struct {
		rows []*result.Row
		want string
	}{
		"alone":           {[]*result.Row{mine}, "least: 0\n"},
		"with a baseline": {[]*result.Row{base, mine}, "sluice: 24.0 MB until ready (overlayfs 12.0), 0.200 s of CPU (overlayfs 0.100), 50.0 MB of peak RSS (overlayfs 30.0)\n"},
		"with a peer":     {[]*result.Row{base, mine, coldRow("redis", slow, "peer", 1.5)}, "sluice: 24.0 MB until ready (overlayfs 12.0), 0.200 s"},
		"a peer alone":    {[]*result.Row{mine, coldRow("redis", slow, "peer", 1.5)}, "sluice: 24.0 MB until ready (peer 18.0), 0.200 s"},
		"with a like one": {[]*result.Row{mine, coldRow("redis", slow, "peer", 1.85)}, "least: 0\n"},
		"it failed":       {[]*result.Row{base, failed(coldRow("redis", slow, "sluice", 9), "no")}, "least: 0\n"},
		"the other did":   {[]*result.Row{mine, failed(coldRow("redis", slow, "peer", 1), "no")}, "least: 0\n"},
	} {
		d := &document{report: &result.Report{Rows: c.rows}}
		d.more()
		if text := d.text.String(); !strings.Contains(text, c.want) {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// Of containers that start at once the bar is the total alone.
func TestAtOnceBar(t *testing.T) {
	rows := []*result.Row{coldRow("redis", slow, "sluice", 2), coldRow("redis, 10 at once", slow, "sluice", 2)}
	d := &document{report: &result.Report{Rows: rows}, systems: systems(rows)}
	d.colours = palette(d.systems)
	one, several := d.coldBar(rows[0]), d.coldBar(rows[1])
	if len(one.ends) != 2 || one.edge != nil {
		t.Errorf("one: %+v", one)
	}
	if len(several.ends) != 1 || several.ends[0] != 2 || several.edge == nil || several.mark == 0 {
		t.Errorf("several: %+v", several)
	}
	if with, without := d.coldFigure(rows, slow), d.coldFigure(rows[:1], slow); len(with.legend) != len(without.legend)+1 {
		t.Errorf("the legend has %d entries, without %d", len(with.legend), len(without.legend))
	}
}

// The text of the footnote has a figure that another package decides.
func TestRestText(t *testing.T) {
	if want := fmt.Sprintf("for %.0f seconds", meter.Quiet.Seconds()); !strings.Contains(restText, want) {
		t.Errorf("no %q in %q", want, restText)
	}
}

// TestAlike compares like with like.
func TestAlike(t *testing.T) {
	row := func(system, form string) *result.Row {
		return &result.Row{
			Section: result.Cold, System: system, Form: form, Measures: map[result.Measure][]float64{result.Total: {1}},
		}
	}
	d := &document{report: &result.Report{Rows: []*result.Row{
		row(result.Baseline, "plain"), row("sluice", "plain"), row("sluice esgz", "esgz"), row("sluice list", "list"),
		row("peer esgz", "esgz"), row("peer list", "list"), row("peer own", "own"), row("old", ""),
	}}}
	for system, want := range map[string]string{
		"sluice":      result.Baseline + " peer own old",
		"sluice esgz": result.Baseline + " peer esgz peer own old",
		"sluice list": result.Baseline + " peer list peer own old",
	} {
		var names []string
		for _, r := range d.rivals(d.report.Find(result.Cold, "", "", system), result.Total) {
			names = append(names, r.System)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %q, want %q", system, got, want)
		}
	}
}
