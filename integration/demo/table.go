package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// row is a line of the table.
type row struct {
	name   string
	value  func(sample) float64
	digits int
}

var rows = []row{
	{"pull, s", func(s sample) float64 { return s.pull }, 2},
	{"run to exit, s", func(s sample) float64 { return s.run }, 2},
	{"**total, s**", sample.total, 2},
	{"MB at the link until the exit", func(s sample) float64 { return s.bytes }, 1},
	{"of them for demand and prefetch", func(s sample) float64 { return s.asked }, 1},
	{"requests at the link until the exit", func(s sample) float64 { return s.requests }, 0},
}

// table is the result as Markdown: medians, with the range of each, and how the lazy start compares.
func table(s settings, p pair, samples map[string][]sample) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, `%s`\n\n", p.name, strings.TrimSpace(samples["sluice"][0].output))
	fmt.Fprintf(&b, "| median of %d (range) | overlayfs, ordinary image | Sluice, eStargz | ratio |\n|---|---:|---:|---:|\n", s.runs)
	for _, r := range rows {
		plain, lazy := r.of(samples["overlayfs"]), r.of(samples["sluice"])
		fmt.Fprintf(&b, "| %s | %s | %s | %.2f |\n", r.name, r.cell(plain), r.cell(lazy), median(lazy)/median(plain))
	}
	fmt.Fprintf(&b, "\nLink: %s for each request, %.0f MB/s for all together. Linux %s, %d CPUs, %s, containerd 2.4; %s.\n",
		s.latency, mb(s.bandwidth), kernel(), runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	return b.String()
}

func (r row) of(samples []sample) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = r.value(s)
	}
	slices.Sort(values)
	return values
}

func (r row) cell(sorted []float64) string {
	f := func(v float64) string { return fmt.Sprintf("%.*f", r.digits, v) }
	return fmt.Sprintf("%s (%s–%s)", f(median(sorted)), f(sorted[0]), f(sorted[len(sorted)-1]))
}

func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}
