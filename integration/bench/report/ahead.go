package report

import (
	"fmt"
	"strings"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// notAhead lists where Sluice is not ahead of some other system. Its own variants are no rivals of each other: which of them is best
// is in the tables.
func (d *document) notAhead() {
	var lines []string
	ahead, alone := 0, 0
	for _, r := range d.report.Rows {
		if !ours(r.System) {
			continue
		}
		line, rivals := d.behind(r)
		switch {
		case line != "":
			lines = append(lines, line)
		case rivals == 0:
			alone++
		default:
			ahead++
		}
	}
	d.printf("## Not ahead\n\nSluice is ahead of all other systems in %d rows; in %d there is no other to compare with. ", ahead, alone)
	d.printf("In %d rows another is as good or better, or Sluice failed", len(lines))
	if len(lines) == 0 {
		d.printf(".\n")
		return
	}
	d.printf(":\n\n")
	for _, line := range lines {
		d.printf("- %s\n", line)
	}
}

// behind says which systems r is not ahead of, or nothing if there is none, and how many rivals it has.
func (d *document) behind(r *result.Row) (text string, rivals int) {
	if !r.OK() {
		return fmt.Sprintf("%s: %s", escape(r.Name()), failure(r)), 0
	}
	m := r.Main()
	u := unitOf(m)
	var first []string
	for _, other := range d.report.Rows {
		if ours(other.System) || !sameSituation(r, other) || !has(other, m) {
			continue
		}
		rivals++
		if better(r, other, m) {
			continue
		}
		figure := fmt.Sprintf("%s %s %s", escape(other.System), u.number(median(other, m)), u.name)
		if !better(other, r, m) {
			figure += " (equal)"
		}
		first = append(first, figure)
	}
	if len(first) == 0 {
		return "", rivals
	}
	return fmt.Sprintf("%s: %s %s; ahead: %s", escape(r.Name()), u.number(median(r, m)), u.name, strings.Join(first, ", ")), rivals
}

func sameSituation(a, b *result.Row) bool {
	return a.Section == b.Section && a.Subject == b.Subject && a.Case == b.Case
}
