package layer

import (
	"sync"

	"github.com/sluice-snapshotter/sluice/cache"
)

// rowJitter is how far from the end of a row of reads its next one may be, or four times its own size: the kernel has several under way.
const rowJitter = 256 << 10

// row looks for somebody who reads a layer from front to back, to tell what nobody will read again soon of the data file: who has read it keeps
// it in memory where it is shown. Readers that take turns hide each other. The zero value has seen none.
type row struct {
	mu    sync.Mutex
	front int64 // where the reads end
	size  int64 // bytes up to there
}

// read is told of each read. It returns the blocks of cache.DropBlock that the row has gone past since, but for the last one: the kernel looks
// for what was read before in the page cache to find out whether to read on.
func (r *row) read(off, n int64) (behind Extent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gap, jitter := off-r.front, max(rowJitter, 4*n); gap < -jitter || gap > jitter {
		r.front, r.size = off+n, n
		return Extent{}
	}
	last := r.front / cache.DropBlock
	if more := off + n - r.front; more > 0 {
		r.front += more
		r.size += more
	}
	block := r.front / cache.DropBlock
	if block == last || r.front-r.size > (last-1)*cache.DropBlock {
		return Extent{}
	}
	return Extent{(last - 1) * cache.DropBlock, (block - last) * cache.DropBlock}
}
