package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// none stands in a cell for what was not measured.
const none = "–"

// longest is how many runes of a reason are shown.
const longest = 140

// unit is how a measure is written.
type unit struct {
	name string
	size float64 // in what the report holds
}

// unitOf goes by the end of the measure's name, as package result promises.
func unitOf(m result.Measure) unit {
	for _, u := range []struct {
		end string
		unit
	}{
		{"_bytes_per_s", unit{"MB/s", 1e6}},
		{"_per_s", unit{"operations/s", 1}},
		{"_bytes", unit{"MB", 1e6}},
		{"_requests", unit{"requests", 1}},
		{"_s", unit{"s", 1}},
	} {
		if strings.HasSuffix(string(m), u.end) {
			return u.unit
		}
	}
	return unit{"", 1}
}

// number has three digits that count, or all of those before the point. Requests are whole, unless a median is between two.
func (u unit) number(value float64) string {
	v := value / u.size
	switch a := math.Abs(v); {
	case a >= 100 || a == 0 || (u.name == "requests" && v == math.Trunc(v)):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// summary is the median, and the range if there is one.
func (u unit) summary(s result.Summary) string {
	if s.N < 2 {
		return u.number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", u.number(s.Median), u.number(s.Min), u.number(s.Max))
}

// cell is a measure of a row that may be missing or failed.
func cell(r *result.Row, m result.Measure) string {
	if !has(r, m) {
		return none
	}
	return unitOf(m).summary(result.Summarize(r.Measures[m]))
}

// enough repetitions for a mean to be worth showing.
const enough = 20

func many(r *result.Row, m result.Measure) bool { return len(r.Measures[m]) >= enough }

// timing is a cell with the mean too if there are many repetitions.
func timing(r *result.Row, m result.Measure) string {
	text := cell(r, m)
	if !has(r, m) || !many(r, m) {
		return text
	}
	sum := 0.0
	for _, v := range r.Measures[m] {
		sum += v
	}
	return text + ", mean " + unitOf(m).number(sum/float64(len(r.Measures[m])))
}

func times(ratio float64) string {
	switch {
	case ratio >= 100:
		return fmt.Sprintf("%.0f×", ratio)
	case ratio >= 10:
		return fmt.Sprintf("%.1f×", ratio)
	case ratio >= 0.1 || ratio == 0:
		return fmt.Sprintf("%.2f×", ratio)
	}
	return fmt.Sprintf("%.3f×", ratio)
}

// ratio is that to the baseline, or none.
func (d *document) ratio(r *result.Row, m result.Measure) string {
	if v, ok := d.report.Ratio(r, m); ok {
		return times(v)
	}
	return none
}

// verdict is FAILED with how many of how many repetitions. A row without any is one that nobody measured.
func verdict(r *result.Row) string {
	if len(r.Failed) == 0 {
		return "not measured"
	}
	succeeded := 0
	for _, values := range r.Measures {
		succeeded = max(succeeded, len(values))
	}
	return fmt.Sprintf("FAILED %d of %d", len(r.Failed), len(r.Failed)+succeeded)
}

// failure is the verdict with the first reason.
func failure(r *result.Row) string {
	if len(r.Failed) == 0 {
		return verdict(r)
	}
	return verdict(r) + ": " + escape(shorten(r.Failed[0]))
}

// shorten makes one line of the text, and not a long one.
func shorten(text string) string {
	line := []rune(strings.Join(strings.Fields(text), " "))
	if len(line) > longest {
		line = append(line[:longest-1], '…')
	}
	return string(line)
}

var escaper = strings.NewReplacer(`\`, `\\`, "|", `\|`, "\n", " ", "\r", " ", "<", "&lt;", "&", "&amp;",
	"*", `\*`, "_", `\_`, "`", "\\`", "[", `\[`, "]", `\]`, "#", `\#`, "~", `\~`)

// escape makes the text stand for itself in Markdown, in a table too.
func escape(text string) string { return escaper.Replace(text) }

func escapeAll(texts []string) []string {
	var all []string
	for _, text := range texts {
		all = append(all, escape(text))
	}
	return all
}
