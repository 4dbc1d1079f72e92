// Package report turns a result.Report into what people read: report.md and its plots, each as SVG and as PNG.
//
// A row that failed has no figures here: its cells say FAILED, its place in a plot is empty and says so. A system is ahead of another in
// a situation if its main measure (result.Row.Main) is better by more than noise; else they are level, see apart.
//
// The same report gives the same bytes. Nothing here is safe for concurrent use in one directory.
package report

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// Write puts report.md and the plots (SVG and PNG) for p into dir, which exists; report.json is the caller's (p.Write).
// report.md comes last, so that whoever finds it finds its plots.
func Write(p *result.Report, dir string) error {
	d := &document{report: p, dir: dir, systems: systems(p.Rows), slugs: make(map[string]bool)}
	d.colours = palette(d.systems)
	d.head()
	d.setup()
	d.caveats()
	for _, section := range []func() error{d.cold, d.steady, d.scaling, d.waits} {
		if err := section(); err != nil {
			return fmt.Errorf("write report in %s: %w", dir, err)
		}
	}
	d.notAhead()
	d.more()
	if err := os.WriteFile(filepath.Join(dir, "report.md"), []byte(d.text.String()), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// document is report.md while it is written.
type document struct {
	report  *result.Report
	dir     string
	text    strings.Builder
	systems []string // all, in the order of every list and plot
	colours map[string]look
	slugs   map[string]bool // that name a plot
}

func (d *document) printf(format string, args ...any) { fmt.Fprintf(&d.text, format, args...) }

func (d *document) head() {
	p := d.report
	const minute = "2006-01-02 15:04 MST"
	started := p.Started.UTC()
	d.printf("# Benchmarks, %s", started.Format(time.DateOnly))
	if p.Finished.IsZero() {
		d.printf(" (partial)\n\n**This report is partial: the run that began at %s did not end, or has not ended yet.** ", started.Format(minute))
		d.printf("What was not measured by then is missing or says so. ")
	} else {
		d.printf("\n\nMeasured from %s to %s. ", started.Format(minute), p.Finished.UTC().Format(minute))
	}
	d.printf("Figures are medians of the repetitions, with their range in brackets; MB are millions of bytes. ")
	d.printf("Ratios (×) are to %s in the same situation, which was measured in turn with the others. ", result.Baseline)
	d.printf("A row of which any repetition failed has no figures.\n\n")
}

// table writes a Markdown table. The cells are escaped already; the first column is text and the others are numbers.
func (d *document) table(head []string, rows [][]string) {
	d.aligned("---:|", head, rows)
}

// aligned is a table whose columns after the first have the rule.
func (d *document) aligned(rule string, head []string, rows [][]string) {
	d.printf("| %s |\n|---|%s\n", strings.Join(head, " | "), strings.Repeat(rule, len(head)-1))
	for _, cells := range rows {
		d.printf("| %s |\n", strings.Join(cells, " | "))
	}
	d.printf("\n")
}

// plot saves f under a name made of the parts, and links it.
func (d *document) plot(f *figure, parts ...string) error {
	name := d.slug(strings.Join(parts, " "))
	if err := f.save(filepath.Join(d.dir, name)); err != nil {
		return fmt.Errorf("plot %s: %w", name, err)
	}
	d.printf("![%s](%s.svg)\n\n([PNG](%s.png))\n\n", escape(f.title), name, name)
	return nil
}

// slug returns a file name for the text that no other plot has.
func (d *document) slug(text string) string {
	words := strings.FieldsFunc(strings.ToLower(text), func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9')
	})
	base := strings.Join(words, "-")
	name := base
	for n := 2; d.slugs[name]; n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	d.slugs[name] = true
	return name
}
