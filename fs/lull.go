package fs

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// go-fuse gives a READ its buffer, of up to 1 MiB, before it is known whether it has to wait. As many as a registry that hangs can
// keep waiting would be all the memory of a node.

// maxBuffered is how many READs may keep their buffers in memory while they wait. Others pay for new pages once what they wait for
// is there, which is little to pay where so many wait.
const maxBuffered = 64

// wait is called when a READ begins to wait, before anything was written to its buffer.
func (s *server) wait(buf []byte) {
	if s.waiting.Add(1) > maxBuffered {
		release(buf)
	}
}

// release gives the memory of p back to the kernel, as far as it has whole pages. It reads as zeros then, and is there again when it
// is written to.
func release(p []byte) {
	page := os.Getpagesize()
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) & (page - 1)
	if size := (len(p) - skip) &^ (page - 1); size > 0 {
		_ = unix.Madvise(p[skip:skip+size], unix.MADV_DONTNEED) // nothing is lost if it is refused
	}
}
