package layer

import (
	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// Sizes are in compressed bytes. A stream that is larger than its limit makes a range of its own.
const (
	demandRange = 4 << 20 // the longest range for chunks that a reader waits for; more of them make several ranges

	// readAhead is how far a demand range is extended over the chunks that follow: about what 50 MB/s bring in one
	// round trip of 20 ms, so that the neighbours (of a file, or of a directory of small files) cost a reader no more
	// than asking for them would.
	readAhead = 1 << 20

	// readAheadData is the most bytes that a read-ahead may become, which is what decoding and the disk have to do with it: 1 MiB of
	// zeros is 1 GiB.
	readAheadData = 16 << 20

	prefetchRange    = 8 << 20
	prefetchRangeMin = 2 << 20 // where there is not enough to fetch for several ranges of that size

	// backgroundRange is small, and a quarter of all ranges is background's, because what is under way cannot be called
	// back: it is on the wire and in socket buffers, and takes its share of the link from a container's first reads.
	// Measured with a start at 20 ms and 50 MB/s: 0.97 s of running with 8 MiB and twelve ranges, 0.63 s with 2 MiB and
	// four, 0.41 s without background. Four of them still fill nine tenths of such a link.
	backgroundRange = 2 << 20

	// bridge is the longest stretch of unwanted bytes that a range reads over, rather than being split in two.
	bridge = 128 << 10
)

// zstdWindow is the most history that fs/toc lets a zstd frame have.
const zstdWindow = 32 << 20

// span is a run of chunks that one range brings: in the order of the blob, each stream once.
type span struct {
	chunks  []int
	off     int64 // of the range in the blob
	size    int64
	largest int64 // uncompressed bytes of the largest chunk
	deepest int64 // bytes that the longest stream is decompressed to
	last    cache.Chunk
}

// add takes chunk i, which comes after those that are in the span, if the range then still is one and not longer than
// limit.
func (s *span) add(i int, c cache.Chunk, limit int64) bool {
	switch {
	case len(s.chunks) == 0:
		s.off, s.size = c.BlobOffset, c.BlobSize
	case c.BlobOffset == s.last.BlobOffset:
		if c.InnerOffset < s.last.InnerOffset+s.last.Size {
			return false
		}
	default:
		gap, size := c.BlobOffset-(s.off+s.size), c.BlobOffset+c.BlobSize-s.off
		if gap < 0 || gap > bridge || size > limit {
			return false
		}
		s.size = size
	}
	s.chunks, s.last = append(s.chunks, i), c
	s.largest = max(s.largest, c.Size)
	s.deepest = max(s.deepest, c.InnerOffset+c.Size)
	return true
}

// memory returns the bytes that a flight over the span holds.
func (l *Layer) memory(s span) int64 {
	n := rangeOverhead + bufferSize(s.largest)
	if l.format == toc.ZstdChunked {
		n += min(s.deepest, zstdWindow) // the decoder's history
	}
	return n
}

// spans splits chunks, in order, into ranges not longer than limit.
func (l *Layer) spans(chunks []int, limit int64) []span {
	var out []span
	for _, i := range chunks {
		c := l.store.Chunk(i)
		if n := len(out); n > 0 && out[n-1].add(i, c, limit) {
			continue
		}
		var s span
		s.add(i, c, limit)
		out = append(out, s)
	}
	return out
}

// wanted returns which chunks to fetch for a reader of chunks [first, end): those of them that are missing, before them
// the missing chunks that lie earlier in the same stream and must be decoded anyway, after them a read-ahead.
func (l *Layer) wanted(first, end int) []int {
	for first < end && l.store.Has(first) {
		first++
	}
	if first == end {
		return nil
	}
	begin := first
	for stream := l.store.Chunk(first).BlobOffset; begin > 0 && l.store.Chunk(begin-1).BlobOffset == stream; {
		begin--
	}
	var chunks []int
	for i := begin; i < end; i++ {
		if !l.store.Has(i) {
			chunks = append(chunks, i)
		}
	}
	if len(chunks) == 0 {
		return nil // they have come meanwhile
	}
	spans := l.spans(chunks, demandRange)
	last := spans[len(spans)-1]
	ahead := int64(0)
	for i := end; i < l.store.NumChunks() && !l.store.Has(i); i++ {
		c := l.store.Chunk(i)
		if ahead += c.Size; ahead > readAheadData || !last.add(i, c, readAhead) {
			break
		}
		chunks = append(chunks, i)
	}
	return chunks
}
