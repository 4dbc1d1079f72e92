package metadata

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// small is a tree whose image is a few blocks and has one of every layout.
func small() *Node {
	many := dir(0o755, map[string]*Node{})
	for i := range 30 {
		many.Children[strings.Repeat(string(rune('a'+i)), 200)] = file(int64(i)<<12, 1)
	}
	f := file(0, 100)
	f.Xattrs = map[string][]byte{"user.a": []byte("value"), "security.capability": make([]byte, 20)}
	return dir(0o755, map[string]*Node{
		"many": many, "f": f, "g": f, "link": symlink("target"), "long": symlink(strings.Repeat("l", 4050)),
		"null": device(unix.S_IFCHR, 1, 3), "fifo": {Mode: unix.S_IFIFO}, "sub": deepTree(3), "large": file(1<<12, 3*gib),
	})
}

const smallSize = 4 * gib

// FuzzImage opens damaged images. Whatever the damage: no panic, no endless loop, no answer that is larger than the
// image, and only errors that a caller knows. The first block is put in order, else nothing would get past it.
func FuzzImage(f *testing.F) {
	for _, root := range []*Node{dir(0, nil), small(), dir(0o755, map[string]*Node{"f": file(0, 1)})} {
		f.Add(image(f, root, smallSize)[blockSize:], uint32(1))
	}
	f.Add([]byte{}, uint32(1<<32-1))
	f.Fuzz(func(t *testing.T, body []byte, dataBlocks uint32) {
		size := roundUp(len(body), blockSize)
		super := superblock{blocks: uint32(size/blockSize + 1), dataSize: int64(dataBlocks) * blockSize}
		data := append(super.encode(), body...)
		data = append(data, make([]byte, size-len(body))...)
		im, err := newImage(data)
		if err != nil {
			t.Fatal(err)
		}
		explore(t, im)
	})
}

// FuzzOpen is the superblock itself.
func FuzzOpen(f *testing.F) {
	f.Add(image(f, small(), smallSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		im, err := newImage(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Error(err)
			}
			return
		}
		explore(t, im)
	})
}

// Single bytes of an image are damaged in turn.
func TestDamaged(t *testing.T) {
	sound := image(t, small(), smallSize)
	data := slices.Clone(sound)
	im, err := newImage(data)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 5))
	for pos := blockSize; pos < len(sound); pos++ {
		if pos%16 != 0 && sound[pos] == sound[pos-1] {
			continue // most of this image is padding and long names
		}
		for _, value := range []byte{0, 0xff, sound[pos] ^ 1<<r.IntN(8)} {
			data[pos] = value
			walkTree(t, im)
		}
		data[pos] = sound[pos]
	}
}

// A directory that holds itself, under a name of its own, does not hold up PathAt.
func TestPathAtEnds(t *testing.T) {
	data := image(t, dir(0o755, map[string]*Node{"sub": dir(0o755, nil), "sub2": dir(0o755, nil)}), 0)
	im, err := newImage(data)
	if err != nil {
		t.Fatal(err)
	}
	in, err := im.inode(rootNID)
	if err != nil {
		t.Fatal(err)
	}
	b, n := im.entries(in, 0)
	for i := range n {
		le.PutUint64(b[i*direntLen:], rootNID)
	}
	if path, ok := im.PathAt(0); ok {
		t.Error(path)
	}
}

// explore takes every number for a nid that can be one.
func explore(t *testing.T, im *Image) {
	t.Helper()
	for nid := range uint64(len(im.data)/nidUnit + 1) {
		exploreInode(t, im, nid)
	}
	for _, off := range []int64{-1, 0, 4096, 1 << 40, 1<<63 - 1} {
		im.PathAt(off)
	}
}

// walkTree looks at what can be reached from the root, at no more inodes than there can be.
func walkTree(t *testing.T, im *Image) {
	t.Helper()
	seen := map[uint64]bool{}
	for todo := []uint64{rootNID}; len(todo) > 0; {
		nid := todo[0]
		todo = todo[1:]
		for _, child := range exploreInode(t, im, nid) {
			if !seen[child] {
				seen[child] = true
				todo = append(todo, child)
			}
		}
	}
	im.PathAt(1 << 12)
}

func exploreInode(t *testing.T, im *Image, nid uint64) (children []uint64) {
	t.Helper()
	in, err := im.Inode(nid)
	known(t, err)
	if err == nil && in.Mode&unix.S_IFMT == unix.S_IFREG && (in.Offset < 0 || in.Size < 0 || in.Offset+in.Size > im.dataSize) {
		t.Errorf("inode %d reaches over the data: %+v", nid, in)
	}
	target, err := im.Readlink(nid)
	if in.Mode&unix.S_IFMT == unix.S_IFLNK {
		known(t, err)
	}
	if len(target) > maxTarget {
		t.Errorf("inode %d: target of %d bytes", nid, len(target))
	}
	names, err := im.Listxattr(nid)
	known(t, err)
	for _, name := range names {
		value, err := im.Getxattr(nid, name)
		known(t, err)
		if len(value) > maxXattrValue || len(name) > maxName+len("system.posix_acl_default") {
			t.Errorf("inode %d: xattr %.80q with %d bytes", nid, name, len(value))
		}
	}
	if in.Mode&unix.S_IFMT == unix.S_IFDIR {
		children = exploreDir(t, im, nid)
	}
	return children
}

func exploreDir(t *testing.T, im *Image, nid uint64) (children []uint64) {
	t.Helper()
	last, bytes := uint64(0), 0
	err := im.ReadDir(nid, 0, func(d Dirent) bool {
		if d.Next <= last || d.Name == "" || len(d.Name) > maxName {
			t.Fatalf("directory %d: %+v behind %d", nid, d, last)
		}
		last = d.Next
		bytes += direntLen + len(d.Name)
		children = append(children, d.NID)
		_, err := im.Lookup(nid, d.Name)
		known(t, err)
		return true
	})
	known(t, err)
	if bytes > len(im.data) {
		t.Errorf("directory %d has %d bytes of entries, the image %d", nid, bytes, len(im.data))
	}
	_, err = im.Lookup(nid, "name")
	known(t, err)
	known(t, im.ReadDir(nid, last/2, func(Dirent) bool { return true }))
	return children
}

// known reports errors that callers do not test for.
func known(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNoXattr) {
		t.Error(err)
	}
}
