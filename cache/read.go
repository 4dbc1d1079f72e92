package cache

import "golang.org/x/sys/unix"

const (
	// largeRead is from how many bytes on a read is one of somebody who reads on, and keeps what he reads where he shows it.
	largeRead = 128 << 10

	// dropBlock is the most bytes that Linux keeps as one in the page cache (x86 and arm64 with pages of 4 KiB): less than one of
	// these cannot be dropped.
	dropBlock = 2 << 20
)

// ReadAt reads the address space: the caller has asked Has for the chunks in it. It has the semantics of io.ReaderAt.
//
// It reads by the page cache, for the disk's read-ahead: the kernel asks for far less at a time than a disk likes to give. Of what
// large reads have gone past, little stays there.
func (l *Layer) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.data.ReadAt(p, off)
	if n >= largeRead {
		l.dropBehind(off, int64(n))
	}
	return n, err
}

// dropBehind is told of a read of n bytes. If it comes to the end of a block, the one before that is dropped: the kernel looks for what was
// read last in the page cache to find out whether a read is one of a row. What the disk does not have yet stays, and so does everything where
// the kernel cannot tell (before 6.5).
func (l *Layer) dropBehind(off, n int64) {
	blocks := (off + n) / dropBlock
	if blocks < 2 || blocks*dropBlock <= off {
		return
	}
	at := (blocks - 2) * dropBlock
	var pages unix.Cachestat_t
	err := unix.Cachestat(uint(l.data.Fd()), &unix.CachestatRange{Off: uint64(at), Len: dropBlock}, &pages, 0)
	if err == nil && pages.Cache > 0 && pages.Dirty+pages.Writeback == 0 {
		// An error costs memory that the kernel takes back when it needs it.
		_ = unix.Fadvise(int(l.data.Fd()), at, dropBlock, unix.FADV_DONTNEED)
	}
}
