package cache

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directSize is from how many bytes on a read goes past the page cache: a program that reads that much reads on, and the
// kernel keeps it where it is shown. Smaller ones profit from the disk's read-ahead over neighbouring files.
const directSize = 128 << 10

// directAlign is what addresses, offsets and sizes of direct reads are multiples of: no disk wants more.
const directAlign = 4096

// ReadAt reads the address space: the caller has asked Has for the chunks in it. It has the semantics of io.ReaderAt.
//
// Large reads of what is only on disk do not leave it in the page cache of the data file. What was fetched a moment ago
// is there, and the disk may not have it yet.
func (l *Layer) ReadAt(p []byte, off int64) (int, error) {
	if l.direct == nil || len(p) < directSize || !aligned(p, off) || !l.onlyOnDisk(off, len(p)) {
		return l.data.ReadAt(p, off)
	}
	n, err := l.direct.ReadAt(p, off)
	if errors.Is(err, unix.EINVAL) { // an alignment that we did not think of
		return l.data.ReadAt(p, off)
	}
	return n, err
}

// onlyOnDisk says whether most of a range is not in the page cache, and nothing of it is still to be written. Where the
// kernel cannot tell (before 6.5) it is not.
func (l *Layer) onlyOnDisk(off int64, n int) bool {
	var pages unix.Cachestat_t
	err := unix.Cachestat(uint(l.data.Fd()), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &pages, 0)
	return err == nil && pages.Dirty+pages.Writeback == 0 && pages.Cache < uint64(n)/directAlign/2
}

func aligned(p []byte, off int64) bool {
	return (uintptr(unsafe.Pointer(unsafe.SliceData(p)))|uintptr(off)|uintptr(len(p)))%directAlign == 0
}

// openDirect opens a data file for direct reads; nil where the file system has none.
func openDirect(name string) *os.File {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil
	}
	return f
}
