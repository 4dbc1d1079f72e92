package metadata

import (
	"fmt"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// benchTree is n nodes in the shape of a distribution: 12 files to a directory, some symlinks, few xattrs.
func benchTree(n int) (*Node, int64) {
	root := dir(0o755, map[string]*Node{})
	dirs := []*Node{root}
	offset := int64(0)
	for i := range n - 1 {
		parent := dirs[i/13*7%len(dirs)]
		var node *Node
		switch {
		case i%13 == 0:
			node = dir(0o755, map[string]*Node{})
			dirs = append(dirs, node)
		case i%10 == 5:
			node = symlink(fmt.Sprintf("../lib/target-%d", i))
		default:
			node = file(offset, int64(i)*7919%100_000+1)
			offset += roundUp(node.Size, blockSize)
		}
		if i%100 == 7 && node.Mode&unix.S_IFMT == unix.S_IFREG {
			node.Xattrs = map[string][]byte{"security.capability": make([]byte, 20)}
		}
		parent.Children[fmt.Sprintf("name-of-%d.txt", i)] = node
	}
	return root, offset
}

func BenchmarkWrite(b *testing.B) {
	root, size := benchTree(126_000)
	b.SetBytes(int64(len(image(b, root, size))))
	b.ReportAllocs()
	for b.Loop() {
		if err := Write(io.Discard, root, Options{DataSize: size}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	im := open(b, image(b, dir(0o755, nil), 0))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := newImage(im.data); err != nil {
			b.Fatal(err)
		}
	}
}

// wideImage is an image of a directory of 100,000 files.
func wideImage(b *testing.B) (im *Image, wide uint64) {
	im = open(b, image(b, wideTree(100_000), 100_000<<12))
	wide, err := im.Lookup(im.Root(), "wide")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	return im, wide
}

func BenchmarkLookup(b *testing.B) {
	im, wide := wideImage(b)
	for b.Loop() {
		if _, err := im.Lookup(wide, "file-56789"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInode(b *testing.B) {
	im, wide := wideImage(b)
	nid, err := im.Lookup(wide, "file-56789")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := im.Inode(nid); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadDir(b *testing.B) {
	im, wide := wideImage(b)
	for b.Loop() {
		if err := im.ReadDir(wide, 0, func(Dirent) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPathAt(b *testing.B) {
	root, size := benchTree(126_000)
	im := open(b, image(b, root, size))
	for b.Loop() {
		if _, ok := im.PathAt(size - 1); !ok {
			b.Fatal("not found")
		}
	}
}
