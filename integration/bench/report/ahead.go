package report

import (
	"fmt"
	"strings"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// notAhead lists where Sluice is not ahead of some other system. Its own variants are no rivals of each other: which of them is best
// is in the tables.
func (d *document) notAhead() {
	var behind, level []string
	ahead, peers, alone := 0, 0, 0
	for _, r := range d.report.Rows {
		if !ours(r.System) || r.Section == result.Wait && r.OK() { // which is Sluice against itself
			continue
		}
		switch s := d.standing(r); {
		case !r.OK():
			behind = append(behind, fmt.Sprintf("%s: %s", escape(r.Name()), failure(r)))
		case len(s.ahead) > 0:
			behind = append(behind, s.line())
		case len(s.level) > 0:
			level = append(level, s.line())
		case s.behind > 0:
			ahead++
			if s.behindPeers > 0 {
				peers++
			}
		default:
			alone++
		}
	}
	d.printf("## Not ahead\n\nTwo systems are level if the ranges of their repetitions overlap, or if their medians differ by less than %.0f %%. ", 100*noise)
	d.printf("Forms that Sluice reads too are compared with the same form, a rival's own form and overlayfs with everything. A ratio is Sluice's figure by the other's. ")
	d.printf("Sluice is ahead of all others in %d rows, in %d of which there is another than %s; in %d there is none to compare with.\n\n",
		ahead, peers, result.Baseline, alone)
	d.list("Rows in which another is ahead, or Sluice failed", behind)
	d.list("Rows in which Sluice is level with another, and none is ahead", level)
}

// list writes what the lines are, how many, and the lines.
func (d *document) list(what string, lines []string) {
	d.printf("%s: %d\n\n", what, len(lines))
	if len(lines) == 0 {
		return
	}
	for _, line := range lines {
		d.printf("- %s\n", line)
	}
	d.printf("\n")
}

// standing is how a row compares with its rivals.
type standing struct {
	row          *result.Row
	ahead, level []string // rivals with their figures
	behind       int      // rivals
	behindPeers  int      // of them, others than the baseline
}

func (d *document) standing(r *result.Row) standing {
	s, m := standing{row: r}, r.Main()
	if !r.OK() {
		return s
	}
	for _, rival := range d.rivals(r, m) {
		figure := fmt.Sprintf("%s %s (%.2f×)", escape(rival.System), amount(rival, m), median(r, m)/median(rival, m))
		switch {
		case !differ(r, rival, m, noise):
			s.level = append(s.level, figure)
		case better(r, rival, m):
			s.behind++
			if rival.System != result.Baseline {
				s.behindPeers++
			}
		default:
			s.ahead = append(s.ahead, figure)
		}
	}
	return s
}

// line says who is ahead of the row and who is level with it.
func (s standing) line() string {
	text := fmt.Sprintf("%s: %s", escape(s.row.Name()), amount(s.row, s.row.Main()))
	if len(s.ahead) > 0 {
		text += "; ahead: " + strings.Join(s.ahead, ", ")
	}
	if len(s.level) > 0 {
		text += "; level with " + strings.Join(s.level, ", ")
	}
	return text
}

// amount is the median of m with its unit.
func amount(r *result.Row, m result.Measure) string {
	u := unitOf(m)
	return u.number(median(r, m)) + " " + u.name
}
