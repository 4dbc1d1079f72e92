package fs

import (
	"context"
	"os"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// go-fuse gives a READ its buffer, of up to 1 MiB, before it is known whether it has to wait, and keeps it for others afterwards. As
// many as a registry that hangs can keep waiting would be all the memory of a node, be it while they wait or when all of them get what
// they wait for.

const (
	// maxBuffered is how many READs may keep their buffers in memory while they wait. Others pay for new pages once what they wait
	// for is there, which is little to pay where so many wait.
	maxBuffered = 32

	// maxFilling is how many of the others may have memory at a time, from when they get their bytes until they were sent. These
	// places are no one's who waits for a registry: else layers of one that hangs would keep those of another from being read.
	maxFilling = 32
)

// waiter is a READ that may have to wait, and what becomes of its buffer. Only the goroutine that serves the READ uses it.
type waiter struct {
	server  *server
	buf     []byte
	began   bool
	empty   bool // the memory of buf was given back
	filling bool // it is there again: the READ has one of maxFilling places
}

// begin is called when the READ begins to wait, before anything was written to its buffer.
func (w *waiter) begin() {
	w.began = true
	if w.server.waiting.Add(1) > maxBuffered {
		release(w.buf)
		w.empty = true
	}
}

// fill is called when what the READ needs is there, and waits until it may write to its buffer: for others to do so and to send, which
// takes no longer than the disk does.
func (w *waiter) fill(ctx context.Context) error {
	if !w.empty {
		return nil
	}
	select {
	case w.server.filling <- struct{}{}:
		w.filling = true
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end is called when the buffer is not needed any more.
func (w *waiter) end() {
	if w.filling {
		release(w.buf)
		<-w.server.filling
	}
	if w.began {
		w.server.waiting.Add(-1)
	}
}

// reply is the answer to a READ. It has Slices, which go-fuse writes as they are: all else it first tries to splice, by a pipe that it has to empty
// again.
type reply struct {
	bytes  []byte
	waiter *waiter
}

func (r reply) Slices() ([][]byte, fuse.Status) { return [][]byte{r.bytes}, fuse.OK }

func (r reply) Bytes([]byte) ([]byte, fuse.Status) { return r.bytes, fuse.OK }

func (r reply) Size() int { return len(r.bytes) }

// Done is called by go-fuse when the answer was sent.
func (r reply) Done() { r.waiter.end() }

// release gives the memory of p back to the kernel, as far as it has whole pages. It reads as zeros then, and is there again when it
// is written to.
func release(p []byte) {
	page := os.Getpagesize()
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) & (page - 1)
	if size := (len(p) - skip) &^ (page - 1); size > 0 {
		_ = unix.Madvise(p[skip:skip+size], unix.MADV_DONTNEED) // nothing is lost if it is refused
	}
}
