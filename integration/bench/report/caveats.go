package report

import (
	"slices"
	"strings"
)

// caveats says what may mislead whoever takes the figures elsewhere.
func (d *document) caveats() {
	gunzip := "containerd unpacks ordinary layers with Go's own gunzip, unless unpigz or igzip is installed, which are faster"
	if d.setupNames("gunzip", "unpigz", "igzip") {
		gunzip += "; the setup says which it was"
	}
	d.printf("## What to keep in mind\n\n")
	for _, line := range []string{
		"Prefetch lists are recorded from the very command that is then measured: they are as good as such a list can be.",
		"Images in eStargz and zstd:chunked are made by Sluice's converter for all systems, other forms by the peers' own tools.",
		"The proxy that shapes the link, the registry, and what is measured share the machine's processors.",
		"The latency is that of a request: there are no handshakes of TCP or TLS that would cost more of it.",
		"The order of the systems is another one in each repetition, the same in every run.",
		"Dropped caches are those of this machine: if it is a virtual one, its host may still have the disk's blocks in memory.",
		"CPU is that of containerd and the snapshotter: what the kernel does for a reader, such as EROFS, is the reader's. Page cache is how much that of the machine grew, disk what the node's folder takes when the containers are ready.",
		"Steady states are read over an unshaped link.",
		gunzip + ".",
		"The snapshotter's peak RSS is that of its own process. Overlayfs has none: containerd does its work, and has a column of its own.",
		"The 2 GiB of weights in the model images are not compressible: their gzip only stores them, so that unpacking them costs less than usual.",
	} {
		d.printf("- %s\n", line)
	}
	d.printf("\n")
}

// setupNames says whether the setup has something about one of the programs.
func (d *document) setupNames(programs ...string) bool {
	s := d.report.Setup
	for _, values := range []map[string]string{s.Versions, s.Settings} {
		for key := range values {
			if slices.ContainsFunc(programs, func(p string) bool { return strings.Contains(key, p) }) {
				return true
			}
		}
	}
	return false
}
