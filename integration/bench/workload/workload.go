// Package workload holds the programs that the benchmarks start, after HelloBench's: each in an image of its own, with a sign by which
// one sees that it is ready to do what it is for.
package workload

import (
	"context"

	"github.com/sluice-snapshotter/sluice/integration/images"
)

// Workload is a program in an image and how one sees that it is ready.
type Workload struct {
	Name  string
	Image func(ctx context.Context) (*images.Image, error)
	Args  []string // of the container; nil runs the image's command
	Ready string   // the line of standard output by which it is ready, without its newline; "" for the whole Output, which is one line then
	// Output is all that it prints when everything is right; "" stands for what it prints where the image is unpacked. It ends by itself,
	// with status 0, soon after it is ready.
	Output string
	ML     bool // an image for machine learning, for a link as there is inside a data centre

	// Of is the workload whose image this one uses, with the prefetch list that is recorded from Of's command; nil if it has its own.
	Of *Workload
}

// All lists the workloads in the order of a report.
func All() []Workload {
	return []Workload{python(), gcc(), node(), redis(), postgres(), nginx(), imagemagick(), torch(), modelRead(), modelMap(), whole(python()), whole(torch())}
}
