package converter

import (
	"cmp"
	"slices"

	"github.com/sluice-snapshotter/sluice/converter/prefetch"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

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

// listed says which of the chunks before the landmark are wanted: all but those of files of which the list names parts, where none of these
// lies.
func (l *layer) listed(layout *toc.Layout) toc.Listed {
	listed := make(toc.Listed, layout.PrefetchChunks)
	for i := range listed {
		listed[i] = true
	}
	whole, parts := make(map[int]bool), make(map[int]bool) // files, by their first chunk: one may have several names
	for _, p := range l.picked {
		if begin, _, _ := layout.Chunked(p.Name); p.Ranges == nil {
			whole[begin] = true
		}
	}
	for _, p := range l.picked {
		begin, end, offset := layout.Chunked(p.Name)
		end = min(end, len(listed))
		if begin >= end || whole[begin] {
			continue
		}
		if !parts[begin] {
			parts[begin] = true
			clear(listed[begin:end])
		}
		for _, r := range p.Ranges {
			for i := reached(layout.Chunks[begin:end], offset, r.First) + begin; i < end && layout.Chunks[i].DataOffset-offset <= r.Last; i++ {
				listed[i] = true
			}
		}
	}
	return listed
}

// reached returns which of a file's chunks is the first to end behind a byte of it. The file begins at offset.
func reached(chunks []toc.Chunk, offset, off int64) int {
	i, _ := slices.BinarySearchFunc(chunks, off, func(c toc.Chunk, off int64) int { return cmp.Compare(c.DataOffset-offset+c.Size-1, off) })
	return i
}
