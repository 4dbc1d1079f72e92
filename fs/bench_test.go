package fs

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkRead reads a file that the page cache of its mount does not have. Its bytes are on disk, and with "memory" in the page cache
// of the data file.
func BenchmarkRead(b *testing.B) {
	const size = 256 << 20
	l := buildBlob(b, []file{regular("file", noise(1, size))})
	for _, c := range everyKind {
		for _, from := range []string{"disk", "memory"} {
			b.Run(c.name+" from "+from, func(b *testing.B) {
				n := newNode(b, Options{Mode: c.mode, NoNative: c.noNative, Background: true})
				n.mountLayer(b, newRegistry(b, l).source(l))
				m := n.settled(b, l)
				fd, err := unix.Open(filepath.Join(n.path(b, l, "reader"), "file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					b.Fatal(err)
				}
				defer unix.Close(fd)
				data := int(m.shown.layer.Store().File().Fd())
				if err := m.shown.layer.Store().Seal(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(size)
				p := make([]byte, 1<<20)
				for b.Loop() {
					b.StopTimer()
					if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
						b.Fatal(err)
					}
					if from == "disk" {
						if err := unix.Fadvise(data, 0, 0, unix.FADV_DONTNEED); err != nil {
							b.Fatal(err)
						}
					} else {
						readAll(b, data, p, size)
					}
					b.StartTimer()
					readAll(b, fd, p, size)
				}
			})
		}
	}
}

func readAll(b *testing.B, fd int, p []byte, size int64) {
	b.Helper()
	for off := int64(0); off < size; off += int64(len(p)) {
		if n, err := unix.Pread(fd, p, off); err != nil || n != len(p) {
			b.Fatal(n, err)
		}
	}
}
