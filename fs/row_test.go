package fs

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
)

// TestReadsLeaveFewPages: of a large file that is read from front to back out of a layer that is not complete, little is in the page cache
// twice.
func TestReadsLeaveFewPages(t *testing.T) {
	// What the disk reads ahead of the last read, the last blocks that were read, and one that the kernel's reads have left for each other.
	most := int64(diskReadAhead(t.TempDir()))<<10 + 3*cache.DropBlock
	size := max(24<<20, 3*most/2)
	l := buildBlob(t, []file{regular("file", noise(1, int(size))), regular("missing", noise(2, 8<<20))})
	inModes(t, func(t *testing.T, mode Mode) {
		n := newNode(t, Options{Mode: mode})
		f, err := os.Open(filepath.Join(n.mountLayer(t, newRegistry(t, l).source(l)), "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		read := func() {
			t.Helper()
			if _, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, size)); err != nil {
				t.Fatal(err)
			}
		}
		m, err := n.lookup(l.digest)
		if err != nil {
			t.Fatal(err)
		}
		data := m.shown.layer.Store().File()
		cached := func() int64 {
			t.Helper()
			var pages unix.Cachestat_t
			if err := unix.Cachestat(uint(data.Fd()), &unix.CachestatRange{}, &pages, 0); err != nil {
				t.Skip("this kernel does not tell what is cached: ", err)
			}
			return int64(pages.Cache) * 4096
		}
		read()
		if err := data.Sync(); err != nil {
			t.Fatal(err)
		}
		for _, fd := range []uintptr{data.Fd(), f.Fd()} {
			if err := unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED); err != nil {
				t.Fatal(err)
			}
		}
		if cached() > 0 {
			t.Skip("nothing is dropped on this file system")
		}
		read()
		if got := cached(); got == 0 || got > most {
			t.Errorf("%d of %d bytes of the data file are in the page cache, want %d at most", got, size, most)
		}
	})
}
