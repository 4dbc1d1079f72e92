package converter

import (
	"slices"

	"github.com/sluice-snapshotter/sluice/converter/prefetch"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// partialChunkSize is the chunk size where parts of files are wanted. Measured with PyTorch, which reads 99 of the 537 MB of the files that it
// opens: chunks of 4 MiB that have some of that are 160 MB compressed, of 1 MiB 132, of 256 KiB 95, of 64 KiB 63.
const partialChunkSize = 256 << 10

// users are files that containerd reads whenever it starts a container, to find the user in them: before anything that the container reads, so
// lists that were recorded in it may not have them.
var users = []string{"etc/passwd", "etc/group"}

// pick finds the layer's files that come first: those of the list and, where there is one, those that every start needs.
func (l *layer) pick(list prefetch.List, names []string) {
	l.picked, l.hits = list.Match(names)
	if list.Empty() || !slices.Contains(names, "etc") {
		return // estargz does not move what it finds no folder for
	}
	for _, name := range users {
		if slices.Contains(names, name) && !slices.ContainsFunc(l.picked, func(p prefetch.Pick) bool { return p.Name == name }) {
			l.picked = append(l.picked, prefetch.Pick{Name: name})
		}
	}
}

// chunkSize is that of a layer for which none is given; 0 means the format's own.
func (l *layer) chunkSize() int {
	if slices.ContainsFunc(l.picked, func(p prefetch.Pick) bool { return p.Ranges != nil }) {
		return partialChunkSize
	}
	return 0
}

// listed says which of the chunks before the landmark are wanted: all but those of files of which the list names parts, where none of these
// lies.
func (l *layer) listed(layout *toc.Layout) toc.Listed {
	listed := make(toc.Listed, layout.PrefetchChunks)
	for i := range listed {
		listed[i] = true
	}
	for _, p := range l.picked {
		if p.Ranges == nil {
			continue
		}
		begin, end, offset := layout.Chunked(p.Name)
		for i := begin; i < min(end, len(listed)); i++ {
			first := layout.Chunks[i].DataOffset - offset
			listed[i] = slices.ContainsFunc(p.Ranges, func(r prefetch.Range) bool {
				return r.First < first+layout.Chunks[i].Size && r.Last >= first
			})
		}
	}
	return listed
}
