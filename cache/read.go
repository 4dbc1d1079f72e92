package cache

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// directSize is from how many bytes on a read of what is read once goes past the page cache.
	directSize = 128 << 10

	// directAlign is what addresses, offsets and sizes of direct reads are multiples of: no disk wants more.
	directAlign = 4096

	// DropBlock is the most bytes that Linux keeps as one in the page cache (x86 and arm64 with pages of 4 KiB): less than one of
	// these cannot be dropped.
	DropBlock = 2 << 20
)

// ReadAt reads the address space: the caller has asked Has for the chunks in it. It has the semantics of io.ReaderAt. It reads by the page
// cache, for the disk's read-ahead: the kernel asks a mount for far less at a time than a disk likes to give.
func (l *Layer) ReadAt(p []byte, off int64) (int, error) { return l.data.ReadAt(p, off) }

// ReadOnce is ReadAt for who does not come back: large reads of what is only on disk leave nothing in the page cache. What was fetched a
// moment ago is there, and the disk may not have it yet.
func (l *Layer) ReadOnce(p []byte, off int64) (int, error) {
	if l.direct == nil || len(p) < directSize || !aligned(p, off) || !l.onlyOnDisk(off, len(p)) {
		return l.data.ReadAt(p, off)
	}
	n, err := l.direct.ReadAt(p, off)
	if errors.Is(err, unix.EINVAL) { // an alignment that we did not think of
		return l.data.ReadAt(p, off)
	}
	return n, err
}

// onlyOnDisk says whether most of a range is not in the page cache, and nothing of it is still to be written.
func (l *Layer) onlyOnDisk(off int64, n int) bool {
	pages, ok := l.cached(off, int64(n))
	return ok && pages.Dirty+pages.Writeback == 0 && pages.Cache < uint64(n)/directAlign/2
}

// cached is how much of a range is in the page cache, in pages. Where the kernel cannot tell (before 6.5) it is not ok.
func (l *Layer) cached(off, n int64) (pages unix.Cachestat_t, ok bool) {
	err := unix.Cachestat(uint(l.data.Fd()), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &pages, 0)
	return pages, err == nil
}

// Drop takes a block, or several, out of the page cache: whoever has read it keeps it elsewhere. What the disk does not have yet stays, and
// everything where the kernel cannot tell.
func (l *Layer) Drop(off, n int64) {
	pages, ok := l.cached(off, n)
	if ok && pages.Cache > 0 && pages.Dirty+pages.Writeback == 0 {
		// An error costs memory that the kernel takes back when it needs it.
		_ = unix.Fadvise(int(l.data.Fd()), off, n, unix.FADV_DONTNEED)
	}
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
