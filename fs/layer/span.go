package layer

import (
	"time"

	"github.com/sluice-snapshotter/sluice/cache"
)

// Sizes are in compressed bytes. A stream that is larger than its limit makes a range of its own.
const (
	demandRange = 4 << 20 // the longest range for chunks that a reader waits for; more of them make several ranges

	// A demand range is extended over the chunks that follow by what the link brings in one round trip, so that the neighbours
	// (of a file, or of a directory of small files) cost a reader no more than asking for them would. As long as nothing is known
	// of the link it is firstReadAhead: that of 50 MB/s and 20 ms.
	firstReadAhead = 1 << 20
	minReadAhead   = 256 << 10
	maxReadAhead   = 4 << 20

	// readAheadData is the most bytes that a read-ahead may become, which is what decoding and the disk have to do with it: 1 MiB of
	// zeros is 1 GiB.
	readAheadData = 16 << 20

	prefetchRange    = 8 << 20
	prefetchRangeMin = 4 << 20 // where there is not enough to fetch for several ranges of that size

	// backgroundRange is small, and few of them are under way (see pilot), because what is under way cannot be called
	// back: it is on the wire and in socket buffers, and takes its share of the link from a container's first reads.
	// Measured with a start at 20 ms and 50 MB/s: 0.97 s of running with 8 MiB and twelve ranges, 0.63 s with 2 MiB and
	// four, 0.41 s without background. Four of them still fill nine tenths of such a link.
	backgroundRange = 2 << 20

	// bridge is the longest stretch of unwanted bytes that a range reads over, rather than being split in two.
	bridge = 128 << 10
	// What a large prefetch list leaves out costs a start more than one more of many requests does: read over is what the link brings in the
	// time that a request costs, within these bounds. Measured with PyTorch, two repetitions each: at 50 ms and 25 MB/s 4.9 s with 32 KiB, 5.3 with
	// 128, 5.0 with 8; at 10 ms and 100 MB/s 2.7 s with 32 KiB, 2.5 with 128, 2.8 with 8 and with 512. That of a small one saves round trips.
	prefetchBridgeTime  = 1250 * time.Microsecond
	minPrefetchBridge   = 32 << 10
	maxPrefetchBridge   = 256 << 10
	smallPrefetchBridge = 512 << 10
	// What lies between the chunks that are new in another version of a layer is here. Where one file of twenty has changed, ranges that go on
	// for as far as others would bring nearly all of the blob.
	copyBridge = 8 << 10
)

// bounds say which chunks make one range.
type bounds struct {
	size   int64 // of the range, unless it has only one stream
	bridge int64
}

// span is a run of chunks that one range brings: in the order of the blob, each stream once.
type span struct {
	chunks  []int
	off     int64 // of the range in the blob
	size    int64
	largest int64 // uncompressed bytes of the largest chunk
	deepest int64 // bytes that the longest stream is decompressed to
	longest int64 // bytes of the longest stream
	last    cache.Chunk
}

// add takes chunk i, which comes after those that are in the span, if the range then still is one within b.
func (s *span) add(i int, c cache.Chunk, b bounds) bool {
	switch {
	case len(s.chunks) == 0:
		s.off, s.size = c.BlobOffset, c.BlobSize
	case c.BlobOffset == s.last.BlobOffset:
		if c.InnerOffset < s.last.InnerOffset+s.last.Size {
			return false
		}
	default:
		gap, size := c.BlobOffset-(s.off+s.size), c.BlobOffset+c.BlobSize-s.off
		if gap < 0 || gap > b.bridge || size > b.size {
			return false
		}
		s.size = size
	}
	s.chunks, s.last = append(s.chunks, i), c
	s.largest = max(s.largest, c.Size)
	s.deepest = max(s.deepest, c.InnerOffset+c.Size)
	s.longest = max(s.longest, c.BlobSize)
	return true
}

// spans splits chunks, in order, into ranges within b.
func (l *Layer) spans(chunks []int, b bounds) []span {
	var out []span
	for _, i := range chunks {
		c := l.store.Chunk(i)
		if n := len(out); n > 0 && out[n-1].add(i, c, b) {
			continue
		}
		var s span
		s.add(i, c, b)
		out = append(out, s)
	}
	return out
}

// readAhead returns how many compressed bytes to fetch behind what a reader asks for.
func (l *Layer) readAhead() int64 {
	link := l.blob.Link()
	if link.RTT == 0 || link.Rate == 0 {
		return firstReadAhead
	}
	return min(max(int64(link.RTT.Seconds()*link.Rate), minReadAhead), maxReadAhead)
}

// prefetchBridge returns the bridge of ranges that bring parts of files.
func (l *Layer) prefetchBridge() int64 {
	return min(max(int64(l.blob.Link().Rate*prefetchBridgeTime.Seconds()), minPrefetchBridge), maxPrefetchBridge)
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
	spans := l.spans(chunks, bounds{demandRange, bridge})
	last := spans[len(spans)-1]
	ahead, within := int64(0), bounds{l.readAhead(), bridge}
	for i := end; i < l.store.NumChunks() && !l.store.Has(i); i++ {
		c := l.store.Chunk(i)
		if ahead += c.Size; ahead > readAheadData || !last.add(i, c, within) {
			break
		}
		chunks = append(chunks, i)
	}
	return chunks
}
