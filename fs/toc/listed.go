package toc

import (
	"strconv"
	"strings"
)

// PrefetchAnnotation is Sluice's own: which of the chunks before a layer's landmark are on its prefetch list, where a program reads only
// parts of some files. It holds lengths of runs in the order of the blob, with commas in between: so many chunks are on the list, so many that
// follow are not, and so on in turns. Whoever does not know it prefetches all of them.
const PrefetchAnnotation = "io.github.sluice-snapshotter.prefetch-chunks"

// PrefetchSizeAnnotation is Sluice's own: how many of a blob's first bytes have all that is on its prefetch list, as a decimal number. Whoever
// knows it can ask for them before there is a TOC. Layers where most of these bytes are not on the list have none.
const PrefetchSizeAnnotation = "io.github.sluice-snapshotter.prefetch-size"

// PrefetchSize returns what a layer's PrefetchSizeAnnotation says; 0 if there is none, or it cannot be read.
func PrefetchSize(annotations map[string]string) int64 {
	n, err := strconv.ParseInt(annotations[PrefetchSizeAnnotation], 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// Listed says which of a layer's first chunks are on its prefetch list, by chunk.
type Listed []bool

// ParseListed reads a PrefetchAnnotation for a layer with so many chunks before its landmark. What is not about just as many, nor
// well-formed, is nil: all are on the list.
func ParseListed(s string, chunks int) Listed {
	listed := make(Listed, 0, chunks)
	on := true
	for run := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(run)
		if err != nil || n < 0 || n > chunks-len(listed) {
			return nil
		}
		for range n {
			listed = append(listed, on)
		}
		on = !on
	}
	if len(listed) != chunks {
		return nil
	}
	return listed
}

// String is the list as PrefetchAnnotation has it.
func (l Listed) String() string {
	var s []byte
	run, on := int64(0), true
	for _, listed := range l {
		if listed != on {
			s = append(strconv.AppendInt(s, run, 10), ',')
			run, on = 0, listed
		}
		run++
	}
	return string(strconv.AppendInt(s, run, 10))
}

// Bytes is the uncompressed bytes of a layer's prefetch list.
func (l Listed) Bytes(layout *Layout) (sum int64) {
	for i, c := range layout.Chunks[:layout.PrefetchChunks] {
		if l.Has(i) {
			sum += c.Size
		}
	}
	return sum
}

// Extent returns how many of the blob's first bytes have all that is listed, and how many of these are listed, as compressed.
func (l Listed) Extent(layout *Layout) (end, listed int64) {
	for i, c := range layout.Chunks[:layout.PrefetchChunks] {
		if last := c.BlobOffset + c.BlobSize; l.Has(i) && last > end { // streams are counted once
			end = last
			listed += c.BlobSize
		}
	}
	return end, listed
}

// Has says whether a chunk is on the list.
func (l Listed) Has(chunk int) bool { return chunk >= len(l) || l[chunk] }
