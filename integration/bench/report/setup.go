package report

import (
	"fmt"
	"maps"
	"slices"
)

// setup says what the figures depend on besides the code.
func (d *document) setup() {
	s := d.report.Setup
	d.printf("## Setup\n\n")
	d.aligned("---|", []string{"machine", ""}, [][]string{
		{"kernel", escape(s.Kernel)},
		{"CPU", escape(fmt.Sprintf("%d × %s", s.CPUs, s.CPU))},
		{"memory", fmt.Sprintf("%.1f GB", float64(s.Memory)/1e9)},
		{"filesystem below the stores", escape(s.Filesystem)},
	})
	d.pairs([]string{"program", "version"}, s.Versions)
	d.pairs([]string{"setting", "value"}, s.Settings)
}

// pairs writes a table of the map, sorted by its keys.
func (d *document) pairs(head []string, values map[string]string) {
	if len(values) == 0 {
		return
	}
	var rows [][]string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		rows = append(rows, []string{escape(key), escape(values[key])})
	}
	d.aligned("---|", head, rows)
}
