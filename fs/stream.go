package fs

import (
	"context"
	"sync/atomic"
)

// The kernel has one limit for how far it reads ahead of who reads a file from front to back, and for how much it reads around a page that
// a program faults in. Where contents may have to be fetched it is small, for the sake of programs, until somebody has read a lot from front to
// back without waiting: files that are opened from then on, and until somebody has to wait, are read ahead of as far as is set.

const (
	// streamBytes is how much a stream is, in bytes of the address space.
	streamBytes = 8 << 20

	// streamJitter is how far from where a stream is expected its next read may be: the kernel has two under way.
	streamJitter = 256 << 10
)

// stream looks for readers of a layer who read on without waiting. Readers that take turns hide each other. The zero value has seen none.
type stream struct {
	next atomic.Int64 // where the last read ended
	run  atomic.Int64 // bytes read in a row, up to there
	seen atomic.Bool
}

// read is told of each read, and reports whether seen has changed. Somebody who had to wait ends it.
func (s *stream) read(off, n int64, waited bool) bool {
	gap := off - s.next.Swap(off+n)
	switch {
	case waited:
		s.run.Store(0)
		return s.seen.CompareAndSwap(true, false)
	case gap < -streamJitter || gap > streamJitter:
		s.run.Store(0)
		return false
	}
	return s.run.Add(n) >= streamBytes && s.seen.CompareAndSwap(false, true)
}

// streams is told that somebody has read n bytes at off of the address space.
func (f *FS) streams(l *shown, off, n int64, waited bool) {
	if l.stream.read(off, n, waited) {
		f.tasks.start(context.Background(), func(ctx context.Context) { f.erofs.setReadAhead(ctx, l) })
	}
}
