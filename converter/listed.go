package converter

import (
	"cmp"
	"slices"

	"github.com/sluice-snapshotter/sluice/converter/pack"
	"github.com/sluice-snapshotter/sluice/converter/prefetch"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

const (
	// page is what programs read files by that they map: a chunk that ends within one would be half of what somebody waits for.
	page = 4 << 10

	// nearby is how far apart, in bytes, two ranges must be not to be one: what is saved by leaving out less is lost again by ending a chunk
	// twice.
	nearby = 16 << 10
)

// users are files that containerd reads whenever it starts a container, to find the user in them: before anything that the container reads, so
// lists that were recorded in it may not have them.
var users = []string{"etc/passwd", "etc/group"}

// span is bytes of a file, from begin until before end.
type span struct{ begin, end int64 }

// pick finds the layer's files that come first, those of the list and, where there is one, those that every start needs; and what is wanted
// of them.
func (l *layer) pick(list prefetch.List, tar *pack.Tar) {
	names := tar.Names()
	picked, hits := list.Match(names)
	l.hits, l.first = hits, make([]string, len(picked))
	for i, p := range picked {
		l.first[i] = p.Name
	}
	if !list.Empty() && slices.Contains(names, "etc") { // or they could not be moved
		for _, name := range users {
			if slices.Contains(names, name) && !slices.Contains(l.first, name) {
				l.first = append(l.first, name)
				picked = append(picked, prefetch.Pick{Name: name})
			}
		}
	}
	l.parts = parts(picked, tar)
}

// parts is what is wanted of each file that not all is wanted of, by whichever of its names.
func parts(picked []prefetch.Pick, tar *pack.Tar) map[string][]span {
	all := make(map[string][]span)
	whole := make(map[string]bool)
	for _, p := range picked {
		name, size, ok := tar.File(p.Name)
		if !ok {
			continue
		}
		whole[name] = whole[name] || p.Ranges == nil
		all[name] = append(all[name], pages(p.Ranges, size)...)
	}
	for name, spans := range all {
		all[name] = join(spans)
		if whole[name] {
			delete(all, name)
		}
	}
	return all
}

// pages is the ranges of a file of size bytes in whole pages.
func pages(ranges []prefetch.Range, size int64) []span {
	var spans []span
	for _, r := range ranges {
		if r.First < size {
			last := min(r.Last, size-1)
			spans = append(spans, span{r.First / page * page, min((last/page+1)*page, size)})
		}
	}
	return spans
}

// join sorts spans and makes one of those that are near each other.
func join(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.begin, b.begin) })
	var joined []span
	for _, s := range spans {
		if n := len(joined); n > 0 && s.begin-joined[n-1].end < nearby {
			joined[n-1].end = max(joined[n-1].end, s.end)
			continue
		}
		joined = append(joined, s)
	}
	return joined
}

// edges are where chunks of files must begin, so that what is wanted shares none with what is not.
func (l *layer) edges() map[string][]int64 {
	edges := make(map[string][]int64, len(l.parts))
	for name, spans := range l.parts {
		for _, s := range spans {
			edges[name] = append(edges[name], s.begin, s.end)
		}
	}
	return edges
}

// listed says which of the chunks before the landmark are wanted: all but those of files of which parts are, where none of these lies.
func (l *layer) listed(layout *toc.Layout) toc.Listed {
	listed := make(toc.Listed, layout.PrefetchChunks)
	for i := range listed {
		listed[i] = true
	}
	for name, spans := range l.parts {
		begin, end, offset := layout.Chunked(name)
		for i := begin; i < min(end, len(listed)); i++ {
			at := layout.Chunks[i].DataOffset - offset
			for len(spans) > 0 && spans[0].end <= at {
				spans = spans[1:]
			}
			listed[i] = len(spans) > 0 && spans[0].begin <= at
		}
	}
	return listed
}
