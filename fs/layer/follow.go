package layer

import "sync"

const (
	// aheadMax is how far ahead of a sequential reader is fetched at most, in compressed bytes, and aheadShare which part of the
	// memory limit that may be: it is what fills a link of 100 MB/s for a third of a second.
	aheadMax   = 32 << 20
	aheadShare = 8

	aheadRange = 4 << 20 // of what is fetched ahead

	// aheadData is the most bytes that the window may become, as readAheadData is for what is read ahead at first.
	aheadData = 4 * readAheadData

	// jitter is how far from where a sequential reader is expected it may be: the kernel has several reads under way at once, and
	// who goes through directories does not meet files exactly as the layer has them.
	jitter = 4 << 20

	maxCursors = 8

	// Who reads less than one in dense of the bytes that it goes past is not followed: compilers and interpreters read some of many
	// files, and would be brought all that lies between.
	dense = 2

	// Of more than forget bytes that a reader went past, and of what it read of them, half counts: who has left out much may be one who
	// begins to read everything, and the reverse.
	forget = 4 << 20

	// Where only what is read is wanted, nobody is followed by more than sparseAhead times what the link brings in a round trip: most of a
	// window is in vain where a file ends.
	sparseAhead = 4
)

// cursor is a reader that goes forward through a layer.
type cursor struct {
	next   int   // the chunk behind the last one that it read
	front  int   // the first chunk that is not asked for on its behalf
	steps  int   // how often it went forward
	at     int64 // where the last byte that it read is, in the address space
	went   int64 // bytes that it went past; less what is forgotten
	read   int64 // bytes that it read of those
	strays int   // chunks that it read and that are not on the layer's prefetch list, though they lie among those that are
	passed int   // such chunks that it went past, the strays among them
	all    bool  // it was found to read everything
	window int64 // compressed bytes
	used   uint64
}

// cursors are the readers of a layer that were last seen.
type cursors struct {
	mu   sync.Mutex
	list []*cursor
	time uint64
}

// follow looks whether whoever reads e, in chunks [first, end), reads a layer from front to back, and if so fetches what comes next,
// in a window that doubles as long as it goes on. missed is whether it has to wait. Of readers that come at the very same moment one is
// looked at: it may take a while to find out what has to be fetched.
func (l *Layer) follow(e Extent, first, end int, missed bool) {
	if !l.cursors.mu.TryLock() {
		return
	}
	defer l.cursors.mu.Unlock()
	c := l.cursor(e.Off, first, missed)
	if c == nil {
		return
	}
	if end > c.next {
		c.strays += l.unlisted(max(first, c.next), end)
		c.passed += l.unlisted(c.next, end)
		c.next = end
		c.steps++
	}
	if to := e.Off + e.Size; to > c.at { // what is read again counts once
		c.went += to - c.at
		c.read += to - max(e.Off, c.at)
		c.at = to
	}
	if c.went > forget {
		c.went, c.read = c.went/2, c.read/2
	}
	c.front = max(c.front, c.next)
	if c.steps < 2 || c.front == l.store.NumChunks() || l.distance(c.next, c.front) > c.window/2 {
		return
	}
	if dense*c.read < c.went {
		return
	}
	limit := min(aheadMax, l.scheduler.limit/aheadShare)
	if l.sparse {
		limit = min(limit, max(c.window, sparseAhead*l.readAhead()))
	}
	c.window = min(2*c.window, limit)
	l.fetchAhead(c)
}

// cursor finds the cursor that a read at off, in chunk first, belongs to. One that misses and belongs to none makes a new one.
// l.cursors.mu is held.
func (l *Layer) cursor(off int64, first int, missed bool) *cursor {
	t := &l.cursors
	t.time++
	at := l.store.Chunk(first).DataOffset
	var oldest *cursor
	for _, c := range t.list {
		from, to := l.dataOffset(c.next)-jitter, l.dataOffset(c.front)+jitter
		if from <= at && at <= to {
			c.used = t.time
			return c
		}
		if oldest == nil || c.used < oldest.used {
			oldest = c
		}
	}
	if !missed {
		return nil
	}
	if len(t.list) < maxCursors {
		oldest = new(cursor)
		t.list = append(t.list, oldest)
	}
	// A window less than a chunk brings nothing: readers of large files would wait for chunk after chunk until it has grown.
	window := max(l.readAhead(), l.store.Chunk(first).BlobSize)
	*oldest = cursor{next: first, front: first, at: off, window: window, used: t.time}
	return oldest
}

// dataOffset is where a chunk begins, or the address space ends.
func (l *Layer) dataOffset(chunk int) int64 {
	if chunk == l.store.NumChunks() {
		return l.store.Info().DataSize
	}
	return l.store.Chunk(chunk).DataOffset
}

// distance is how many compressed bytes chunks [from, to) are, about.
func (l *Layer) distance(from, to int) int64 {
	if from >= to {
		return 0
	}
	last := l.store.Chunk(to - 1)
	return max(0, last.BlobOffset+last.BlobSize-l.store.Chunk(from).BlobOffset)
}

// unlisted counts those of chunks [from, to) that lie before the end of the layer's prefetch list and are not on it.
func (l *Layer) unlisted(from, to int) (n int) {
	for i := from; i < min(to, len(l.listed)); i++ {
		if !l.listed[i] {
			n++
		}
	}
	return n
}

// reads says whether it is a reader of everything. A program that starts, and goes through its libraries from front to back, leaves out most of
// what the list does.
func (c *cursor) reads() bool { return c.strays > 1 && 2*c.strays >= c.passed }

// fetchAhead has what is missing in the window of c fetched. l.cursors.mu is held.
func (l *Layer) fetchAhead(c *cursor) {
	var chunks []int
	begin, all := l.dataOffset(c.next), c.reads()
	if all && !c.all {
		c.all, c.front = true, c.next // with what was left out
	}
	for ; c.front < l.store.NumChunks(); c.front++ {
		if l.distance(c.next, c.front+1) > c.window || l.dataOffset(c.front) > begin+aheadData {
			break
		}
		if !l.store.Has(c.front) && (all || l.listed.Has(c.front)) {
			chunks = append(chunks, c.front)
		}
	}
	local := l.locals(chunks)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bring(chunks, local, Prefetch)
}
