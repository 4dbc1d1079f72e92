package cache

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadOnce reads what is in the page cache, what is only on disk, and half and half, in all alignments.
func TestReadOnce(t *testing.T) {
	const size = 1 << 20
	s := newSample("read", size)
	l := s.create(t, openStore(t, t.TempDir(), bootA))
	defer l.Close()
	s.put(t, l, 0)
	if err := l.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l.direct == nil {
		t.Log("no direct reads on this file system")
	}
	evict := func(from, n int64) {
		if err := unix.Fadvise(int(l.data.Fd()), from, n, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
	}
	for _, cached := range []int64{0, 4096, directSize, size / 2, size} {
		for _, c := range []struct{ off, n, skew int }{
			{0, size, 0}, {directSize, directSize, 0}, {directSize, directSize, 1}, {4096, size - 4096, 0}, {4096, size - 4097, 0},
			{1, size - 1, 0}, {100, 100, 0}, {size - directSize, directSize, 0}, {size / 2, size, 0}, {size, directSize, 0},
		} {
			if _, err := l.data.ReadAt(make([]byte, size), 0); err != nil {
				t.Fatal(err)
			}
			evict(cached, 0)
			p := make([]byte, c.n+c.skew)[c.skew:]
			n, err := l.ReadOnce(p, int64(c.off))
			want := s.data[0][c.off:min(size, c.off+c.n)]
			if n != len(want) || !bytes.Equal(p[:n], want) {
				t.Errorf("%+v with %d bytes cached: %d bytes, %v", c, cached, n, err)
			}
			if end := n < c.n; end != errors.Is(err, io.EOF) || !end && err != nil {
				t.Errorf("%+v with %d bytes cached: error is %v", c, cached, err)
			}
		}
	}
}

// TestReadOnceLeavesNoPages: a large read from disk does not fill the page cache.
func TestReadOnceLeavesNoPages(t *testing.T) {
	const size = 1 << 20
	s := newSample("pages", size)
	l := s.create(t, openStore(t, t.TempDir(), bootA))
	defer l.Close()
	if l.direct == nil {
		t.Skip("no direct reads on this file system")
	}
	s.put(t, l, 0)
	if l.onlyOnDisk(0, size) {
		t.Error("what was just written is not in the page cache")
	}
	if err := l.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !l.onlyOnDisk(0, size) {
		t.Skip("this kernel does not tell what is cached, or nothing is evicted")
	}
	if _, err := l.ReadOnce(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	if !l.onlyOnDisk(0, size) {
		t.Error("it is cached now")
	}
}

// TestDrop: a block that is read is in the page cache until it is dropped, and its neighbours stay; what the disk does not have is not dropped.
func TestDrop(t *testing.T) {
	const size = 3 * DropBlock
	s := newSample("drop", size)
	l := s.create(t, openStore(t, t.TempDir(), bootA))
	defer l.Close()
	s.put(t, l, 0)
	if pages, ok := l.cached(0, size); !ok {
		t.Skip("this kernel does not tell what is cached")
	} else if pages.Dirty > 0 {
		if l.Drop(0, size); l.onlyOnDisk(0, size) {
			t.Error("what the disk does not have was dropped")
		}
	}
	if err := l.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !l.onlyOnDisk(0, size) {
		t.Skip("nothing is dropped on this file system")
	}
	if _, err := l.ReadAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	l.Drop(DropBlock, DropBlock)
	for i, want := range []uint64{DropBlock / 4096, 0, DropBlock / 4096} {
		if pages, _ := l.cached(int64(i)*DropBlock, DropBlock); pages.Cache != want {
			t.Errorf("%d pages of block %d are cached, want %d", pages.Cache, i, want)
		}
	}
}
