package report

import "github.com/sluice-snapshotter/sluice/integration/bench/result"

// column is one of a table whose rows are systems.
type column struct {
	head    string
	measure result.Measure
}

var costs = []column{
	{"MB until ready", result.BytesReady},
	{"requests until ready", result.RequestsReady},
	{"MB in all¹", result.BytesAll},
	{"requests in all¹", result.RequestsAll},
	{"s until all¹", result.All},
	{"CPU, s", result.CPU},
	{"peak RSS, MB", result.RSS},
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
			cells = append(cells, cell(r, c.measure))
		}
		lines = append(lines, cells)
	}
	if len(lines) > 0 {
		d.table(head, lines)
		d.printf("¹ until nothing more came through the link, of one repetition.\n\n")
	}
}
