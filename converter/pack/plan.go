package pack

import (
	"io"
	"slices"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// mostHeaders is bytes of headers in one member, or a layer of nothing but links would be one.
const mostHeaders = 1 << 20

// segment is what becomes one member, if it does not share one: a chunk, and what follows it in the tar up to the next chunk. Those before the
// first chunk, and where there are many headers, have no chunk.
type segment struct {
	name    string            // of the entry that it begins with
	parts   []part            // where its bytes are
	size    int64             // of all of them
	chunk   *estargz.TOCEntry // nil if there is none
	payload int64             // bytes of the chunk, which come first
	file    *estargz.TOCEntry // that the chunk is of
	alone   bool              // must begin a member

	begin int64 // where its member begins, from the beginning of the batch; negative for one that earlier batches began
	inner int64 // where it begins in its member, uncompressed
}

// part is bytes of a tar.
type part struct {
	tar    io.ReaderAt
	off, n int64
}

func (s *segment) add(p part) {
	if p.n == 0 {
		return
	}
	s.size += p.n
	if n := len(s.parts); n > 0 && s.parts[n-1].tar == p.tar && s.parts[n-1].off+s.parts[n-1].n == p.off {
		s.parts[n-1].n += p.n
		return
	}
	s.parts = append(s.parts, p)
}

// plan cuts entries into segments, and makes their TOC, in which offsets and digests are still missing.
type plan struct {
	sorted    []*entry
	tar       io.ReaderAt
	edges     map[string][]int64
	chunkSize int64
	toc       estargz.JTOC
	uname     map[int]string // as the TOC has it last
	gname     map[int]string
}

// segments yields all of the tar.
func (p *plan) segments(yield func(*segment) bool) {
	var s *segment
	for _, e := range p.sorted {
		if e.tar == nil {
			e.tar = p.tar
		}
		header := e.payload - e.begin
		if s == nil || s.size-s.payload+header > mostHeaders {
			if s != nil && !yield(s) {
				return
			}
			s = &segment{name: e.toc.Name}
		}
		s.add(part{e.tar, e.begin, header})
		p.list(e)
		for chunk := range p.chunks(e) {
			if !yield(s) {
				return
			}
			s = chunk
		}
		padding := e.end - e.payload - e.toc.Size
		s.add(part{e.tar, e.end - padding, padding})
	}
	if s != nil {
		yield(s)
	}
}

// list adds an entry to the TOC, which has the name of an owner where it is another than before.
func (p *plan) list(e *entry) {
	e.toc.Uname = ifChanged(p.uname, e.toc.UID, e.toc.Uname)
	e.toc.Gname = ifChanged(p.gname, e.toc.GID, e.toc.Gname)
	if e.toc.Type == "reg" && e.toc.Size == 0 {
		e.toc.Digest = emptyDigest
	}
	p.toc.Entries = append(p.toc.Entries, &e.toc)
}

func ifChanged(names map[int]string, id int, name string) string {
	if name == "" || names[id] == name {
		return ""
	}
	names[id] = name
	return name
}

// chunks yields those of an entry, the first of which the entry itself lists.
func (p *plan) chunks(e *entry) func(yield func(*segment) bool) {
	return func(yield func(*segment) bool) {
		edges := p.edges[e.name]
		for off, end := int64(0), int64(0); off < e.toc.Size; off = end {
			end = min(off+p.chunkSize, e.toc.Size)
			next, _ := slices.BinarySearch(edges, off+1)
			if edges = edges[next:]; len(edges) > 0 {
				end = min(end, edges[0])
			}
			chunk := &e.toc
			if off > 0 {
				chunk = &estargz.TOCEntry{Name: e.toc.Name, Type: "chunk", ChunkOffset: off}
				p.toc.Entries = append(p.toc.Entries, chunk)
			}
			if end < e.toc.Size { // else it is "to the end of the file"
				chunk.ChunkSize = end - off
			}
			s := &segment{
				name: e.toc.Name, chunk: chunk, payload: end - off, file: &e.toc,
				alone: ofFormat[e.name], // what comes first ends where the landmark begins
			}
			s.add(part{e.tar, e.payload + off, end - off})
			if !yield(s) {
				return
			}
		}
	}
}
