package fs

import (
	"context"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkRead reads a file whose bytes are on disk, and in the page cache there, but not in that of the mount.
func BenchmarkRead(b *testing.B) {
	const size = 64 << 20
	l := buildBlob(b, []file{regular("file", noise(1, size))})
	for _, mode := range []Mode{EROFS, FUSE} {
		b.Run(string(mode), func(b *testing.B) {
			n := newNode(b, Options{Mode: mode})
			path := n.mountLayer(b, newRegistry(b, l).source(l))
			fd, err := unix.Open(filepath.Join(path, "file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				b.Fatal(err)
			}
			defer unix.Close(fd)
			m, err := n.lookup(l.digest)
			if err != nil {
				b.Fatal(err)
			}
			if err := m.shown.layer.Fill(context.Background()); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(size)
			p := make([]byte, 1<<20)
			for b.Loop() {
				if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
					b.Fatal(err)
				}
				for off := int64(0); off < size; off += int64(len(p)) {
					if n, err := unix.Pread(fd, p, off); err != nil || n != len(p) {
						b.Fatal(n, err)
					}
				}
			}
		})
	}
}
