package cache

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// cached is how many bytes of [off, off+n) of the data file are in the page cache.
func (l *Layer) cached(t *testing.T, off, n int64) int64 {
	t.Helper()
	var pages unix.Cachestat_t
	err := unix.Cachestat(uint(l.data.Fd()), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &pages, 0)
	if errors.Is(err, unix.ENOSYS) {
		t.Skip("this kernel does not tell what is cached")
	}
	if err != nil {
		t.Fatal(err)
	}
	return int64(pages.Cache) * 4096
}

// TestReadAt reads what is in the page cache and what is only on disk, in all alignments and across the end.
func TestReadAt(t *testing.T) {
	const size = 2*dropBlock + 3*4096
	s := newSample("read", size)
	l := s.create(t, openStore(t, t.TempDir(), bootA))
	defer l.Close()
	s.put(t, l, 0)
	if err := l.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, from := range []int64{0, 4096, dropBlock, size} { // what is behind it is only on disk
		for _, c := range []struct{ off, n int }{
			{0, size}, {0, size + 1}, {4096, size - 4097}, {1, size - 1}, {100, 100}, {dropBlock, largeRead}, {dropBlock - 1, dropBlock + 2},
			{size - largeRead, largeRead}, {size / 2, size}, {size, largeRead},
		} {
			if _, err := l.data.ReadAt(make([]byte, size), 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Fadvise(int(l.data.Fd()), from, 0, unix.FADV_DONTNEED); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, c.n)
			n, err := l.ReadAt(p, int64(c.off))
			want := s.data[0][c.off:min(size, c.off+c.n)]
			if n != len(want) || !bytes.Equal(p[:n], want) {
				t.Errorf("%+v with %d bytes cached: %d bytes, %v", c, from, n, err)
			}
			if end := n < c.n; end != errors.Is(err, io.EOF) || !end && err != nil {
				t.Errorf("%+v with %d bytes cached: error is %v", c, from, err)
			}
		}
	}
}

// TestReadAtLeavesFewPages: who reads on does not fill the page cache with what he keeps himself. What the disk does not have yet stays, and
// so does what is read in small pieces.
func TestReadAtLeavesFewPages(t *testing.T) {
	const size = 10 * dropBlock
	s := newSample("pages", size)
	l := s.create(t, openStore(t, t.TempDir(), bootA))
	defer l.Close()
	s.put(t, l, 0)
	pass := func(step int) {
		t.Helper()
		for off, p := int64(0), make([]byte, step); off < size; off += int64(step) {
			if _, err := l.ReadAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
	}
	var pages unix.Cachestat_t
	whole := &unix.CachestatRange{Len: size}
	if err := unix.Cachestat(uint(l.data.Fd()), whole, &pages, 0); err != nil {
		t.Skip("this kernel does not tell what is cached: ", err)
	}
	if pages.Dirty+pages.Writeback == size/4096 {
		if pass(largeRead); l.cached(t, 0, size) == 0 {
			t.Error("what the disk does not have was dropped")
		}
	}
	if err := l.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l.cached(t, 0, size) > 0 {
		t.Skip("nothing is dropped on this file system")
	}
	if pass(4096); l.cached(t, 0, size) < size {
		t.Errorf("of small reads, %d of %d bytes stay", l.cached(t, 0, size), size)
	}
	for _, step := range []int{largeRead, 1 << 20} {
		pass(step)
		if got := l.cached(t, 0, size-4*dropBlock); got > 0 {
			t.Errorf("of reads of %d bytes, %d stay that they have gone past", step, got)
		}
	}
}
