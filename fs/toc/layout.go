package toc

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// Layout is a TOC that has been validated and given places: a tree whose files lie in the address space, and the
// chunks that fill it. Files are placed in the order in which the blob has them, so that reading the blob from its
// beginning fills the address space from its beginning.
type Layout struct {
	Chunks         []Chunk  // in the order of DataOffset; where a file has none, it is zeros
	DataSize       int64    // bytes of address space, a multiple of 4096
	PrefetchChunks int      // Chunks[:PrefetchChunks] are what the image's maker wants prefetched
	Files          int      // regular files; one with several names counts once
	Implied        []string // by Index only: directories that no entry describes, sorted
	Root           *metadata.Node
}

// file is a regular file and where its chunks are in the list.
type file struct {
	node          *metadata.Node
	first, chunks int
	name          string // of its entry
}

// layouter goes through a TOC once.
type layouter struct {
	format   Format
	group    []estargz.TOCEntry // an entry and the chunks that have followed it so far
	tree     *tree
	chunks   chunks
	files    []file
	landmark *Chunk // the prefetch landmark's; nil if there is none
	never    bool   // whether there is the landmark that says "prefetch nothing"
}

// Layout validates the TOC and lays it out. What it refuses is an *EntryError: names that leave the layer or that no
// file system could hold, numbers out of range, links and chunks that lead nowhere. The result shares strings and
// xattr values with the TOC, which is not changed.
func (t *TOC) Layout() (*Layout, error) {
	l := newLayouter(t.Format, t.PayloadSize)
	for _, e := range t.Entries {
		if err := l.take(e); err != nil {
			return nil, err
		}
	}
	return l.finish()
}

func newLayouter(f Format, payloadSize int64) *layouter {
	return &layouter{format: f, tree: newTree(), chunks: chunks{payloadSize: payloadSize}}
}

// take takes the next entry, of which it makes a copy.
func (l *layouter) take(e *estargz.TOCEntry) error {
	if e.Type != "chunk" {
		if err := l.close(); err != nil {
			return err
		}
	}
	l.group = append(l.group, *e)
	return nil
}

// close ends the group: no chunk follows.
func (l *layouter) close() error {
	if len(l.group) == 0 {
		return nil
	}
	if err := l.add(l.group); err != nil {
		return refuse(l.group[0].Name, err)
	}
	clear(l.group) // or its strings stay until others take their places
	l.group = l.group[:0]
	return nil
}

// finish comes after the last entry.
func (l *layouter) finish() (*Layout, error) {
	if err := l.close(); err != nil {
		return nil, err
	}
	if err := l.tree.finish(); err != nil {
		return nil, err
	}
	l.chunks.setBlobSizes()
	return l.place()
}

// add takes an entry and the chunks that follow it.
func (l *layouter) add(entries []estargz.TOCEntry) error {
	e := &entries[0]
	if e.Type != "reg" {
		if e.Type == "chunk" || len(entries) > 1 {
			return errors.New("chunk of no file")
		}
		_, err := l.tree.add(e)
		return err
	}
	first := len(l.chunks.list)
	if err := l.chunks.addFile(entries); err != nil {
		return err
	}
	l.mark(e, first)
	node, err := l.tree.add(e)
	if err != nil {
		return err
	}
	if node == nil { // no file of the tree: its chunks have only shown where streams begin
		l.chunks.list = l.chunks.list[:first]
		return nil
	}
	l.files = append(l.files, file{node, first, len(l.chunks.list) - first, e.Name})
	return nil
}

// mark remembers landmarks.
func (l *layouter) mark(e *estargz.TOCEntry, first int) {
	name, err := cleanName(e.Name)
	switch {
	case err != nil:
	case name == estargz.NoPrefetchLandmark:
		l.never = true
	case name == estargz.PrefetchLandmark && first < len(l.chunks.list):
		chunk := l.chunks.list[first]
		l.landmark = &chunk
	}
}

// place gives the files their places in the address space.
func (l *layouter) place() (*Layout, error) {
	forgotten := l.tree.forgotten()
	slices.SortStableFunc(l.files, func(a, b file) int { return l.compare(a, b) })
	out := &Layout{Root: l.tree.root, Chunks: l.room()}
	for _, f := range l.files {
		if _, gone := forgotten[f.node]; gone {
			continue
		}
		out.Files++
		if f.node.Size == 0 {
			continue
		}
		prefetched := l.prefetches(f) // before its chunks may be moved
		if err := l.placeFile(out, f); err != nil {
			return nil, refuse(f.name, err)
		}
		if prefetched {
			out.PrefetchChunks = len(out.Chunks)
		}
	}
	return out, nil
}

// room is where the chunks of the sorted files go: where they are, if none of them has to move up past others, which is
// so in most layers; else somewhere else.
func (l *layouter) room() []Chunk {
	placed := 0
	for _, f := range l.files {
		if f.chunks > 0 && f.first < placed {
			return make([]Chunk, 0, len(l.chunks.list))
		}
		placed += f.chunks
	}
	return l.chunks.list[:0]
}

// placeFile puts a file behind those that out has.
func (l *layouter) placeFile(out *Layout, f file) error {
	if f.node.Size > MaxDataSize-out.DataSize {
		return fmt.Errorf("layer has more than %d bytes of files", int64(MaxDataSize))
	}
	f.node.Offset = out.DataSize
	for _, c := range l.chunks.list[f.first:][:f.chunks] {
		if err := c.checkReach(l.format); err != nil {
			return err
		}
		c.DataOffset += f.node.Offset
		out.Chunks = append(out.Chunks, c)
	}
	out.DataSize += (f.node.Size + blockSize - 1) / blockSize * blockSize
	return nil
}

// compare orders files by where the blob has their first bytes, those that have none first.
func (l *layouter) compare(a, b file) int {
	if a.chunks == 0 || b.chunks == 0 {
		return cmp.Compare(a.chunks, b.chunks)
	}
	return compareInBlob(&l.chunks.list[a.first], &l.chunks.list[b.first])
}

// prefetches reports whether f is to be prefetched: whether it begins before the landmark.
func (l *layouter) prefetches(f file) bool {
	return l.landmark != nil && !l.never && f.chunks > 0 && compareInBlob(&l.chunks.list[f.first], l.landmark) < 0
}

func compareInBlob(a, b *Chunk) int {
	return cmp.Or(cmp.Compare(a.BlobOffset, b.BlobOffset), cmp.Compare(a.InnerOffset, b.InnerOffset))
}

// Chunked returns which chunks are of the file with a name (clean, without leading slash): Chunks[begin:end], and where in the address
// space the file begins. There are none if there is no such file.
func (l *Layout) Chunked(name string) (begin, end int, offset int64) {
	node := l.Root
	for part := range strings.SplitSeq(name, "/") {
		if node = node.Children[part]; node == nil {
			return 0, 0, 0
		}
	}
	if node.Size == 0 {
		return 0, 0, 0
	}
	at := func(off int64) int {
		i, _ := slices.BinarySearchFunc(l.Chunks, off, func(c Chunk, off int64) int { return cmp.Compare(c.DataOffset, off) })
		return i
	}
	return at(node.Offset), at(node.Offset + node.Size), node.Offset
}

// WriteMetadata writes the layer's metadata image.
func (l *Layout) WriteMetadata(w io.Writer) error {
	return metadata.Write(w, l.Root, metadata.Options{DataSize: l.DataSize})
}
