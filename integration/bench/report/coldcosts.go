package report

import (
	"slices"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// column is one of a table whose rows are systems.
type column struct {
	head    string
	measure result.Measure
}

// withRatio are the costs that are shown with their ratios to the baseline.
var withRatio = []result.Measure{result.BytesReady, result.BytesAll, result.CPU, result.RSS, result.ContainerdRSS}

const restText = "¹ until nothing had come through the link for 6 seconds, which does not wait for snapshotters that pause longer before they " +
	"fetch in the background (SOCI pauses for 30 seconds). Measured only in the first repetition, and only of python and of the images for " +
	"machine learning, on one link each."

var costs = []column{
	{"MB until ready", result.BytesReady},
	{"requests until ready", result.RequestsReady},
	{"MB in all¹", result.BytesAll},
	{"requests in all¹", result.RequestsAll},
	{"s until all¹", result.All},
	{"CPU, s", result.CPU},
	{"snapshotter's peak RSS, MB", result.RSS},
	{"containerd's peak RSS, MB", result.ContainerdRSS},
	{"page cache, MB", result.PageCache},
	{"disk, MB", result.Disk},
}

// coldCosts is the table of what the rivals' starts took; those that failed have none.
func (d *document) coldCosts(rivals []*result.Row) {
	head := []string{"what it took"}
	for _, c := range costs {
		head = append(head, c.head)
	}
	var lines [][]string
	for _, r := range rivals {
		if !r.OK() {
			continue
		}
		cells := []string{escape(r.System)}
		for _, c := range costs {
			text := cell(r, c.measure)
			if slices.Contains(withRatio, c.measure) {
				text = d.compared(r, c.measure)
			}
			cells = append(cells, text)
		}
		lines = append(lines, cells)
	}
	if len(lines) > 0 {
		d.table(head, lines)
		d.printf("%s\n\n", restText)
	}
}
