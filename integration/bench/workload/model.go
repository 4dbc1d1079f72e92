package workload

import "github.com/sluice-snapshotter/sluice/integration/images"

// The checksums are those of what images.Weights documents: the whole file, and the pages that /probe chooses by the seed 1. They
// were computed once, apart from both programs.

// modelRead loads weights as a copy in memory.
func modelRead() Workload {
	return says(Workload{
		Name: "model-read", Image: images.Weights, Args: []string{"/probe", "model", "read", images.WeightsFile}, ML: true,
	}, "5e3da6c0 of 2147483648 bytes")
}

// modelMap maps weights and uses a part of them: 256 pages, which lie in 202 of 512 pieces of 4 MiB.
func modelMap() Workload {
	return says(Workload{
		Name: "model-map", Image: images.Weights, Args: []string{"/probe", "model", "map", images.WeightsFile, "1", "256"}, ML: true,
	}, "e7ac2097 of 1048576 bytes")
}
