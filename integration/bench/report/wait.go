package report

import "github.com/sluice-snapshotter/sluice/integration/bench/result"

const waitText = "Reads of contents that are not on the node, one after another with up to 100 ms in between, at random places of a large file: how long each waits for its " +
	"chunk, alone and while the rest of the image comes in the background. Chunks that have come before their read do not count. Ratios are to " +
	result.WaitBaseline + "."

var waiting = []column{
	{"median wait, s", result.WaitMedian},
	{"95 of 100 wait at most, s", result.WaitP95},
	{"reads that found it there", result.Present},
	{"through the link meanwhile, MB/s", result.LinkRate},
}

// waits writes the section for what readers wait while more urgent things and less urgent ones share the link: a table per subject and link.
func (d *document) waits() error {
	rows := d.section(result.Wait)
	if len(rows) == 0 {
		return nil
	}
	d.printf("## Waiting readers\n\n%s\n\n", waitText)
	for _, what := range distinct(rows, subject) {
		these := choose(rows, subject, what)
		for _, link := range distinct(these, kase) {
			d.printf("### %s, %s\n\n", escape(what), escape(link))
			there := choose(these, kase, link)
			d.waitTable(there)
			d.failures(there)
		}
	}
	return nil
}

func (d *document) waitTable(rows []*result.Row) {
	head := []string{"system"}
	for _, c := range waiting {
		head = append(head, c.head)
	}
	var lines [][]string
	for _, r := range rows {
		cells := []string{escape(r.System)}
		for _, c := range waiting {
			text := cell(r, c.measure)
			if c.measure == result.WaitP95 || c.measure == result.WaitMedian {
				text = d.compared(r, c.measure)
			}
			cells = append(cells, text)
		}
		lines = append(lines, cells)
	}
	d.table(head, lines)
}
