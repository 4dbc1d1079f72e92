package metadata

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRoundTrip(t *testing.T) {
	tests := map[string]struct {
		root *Node
		size int64
	}{
		"only the root":   {dir(0o700, nil), 0},
		"everything":      {sampleTree(), sampleSize},
		"10000 in a row":  {wideTree(10_000), 10_000 << 12},
		"10000 in depth":  {deepTree(2_000), 0},
		"largest file":    {dir(0o755, map[string]*Node{"f": file(0, maxBlocks<<12)}), maxBlocks << 12},
		"two chunks long": {dir(0o755, map[string]*Node{"f": file(1<<12, 9<<40)}), 10 << 40},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			im := open(t, image(t, tt.root, tt.size))
			compare(t, imageFacts(t, im), treeFacts(tt.root))
		})
	}
}

func TestRoundTripRandom(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			root, size := randomTree(rand.New(rand.NewPCG(seed, 0)), 400)
			im := open(t, image(t, root, size))
			compare(t, imageFacts(t, im), treeFacts(root))
		})
	}
}

func TestLookupMisses(t *testing.T) {
	im := open(t, image(t, wideTree(10_000), 10_000<<12))
	wide, err := im.Lookup(im.Root(), "wide")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "!", "f", "file-", "file-10000", "file-5000a", "g", "\xff", "...", strings.Repeat("x", 300)} {
		if nid, err := im.Lookup(wide, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("lookup %q: %d, %v", name, nid, err)
		}
	}
	child, err := im.Lookup(wide, "file-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.Lookup(child, "x"); !errors.Is(err, errNotDir) {
		t.Errorf("lookup in a file: %v", err)
	}
	if err := im.ReadDir(child, 0, func(Dirent) bool { return true }); !errors.Is(err, errNotDir) {
		t.Errorf("list a file: %v", err)
	}
	if _, err := im.Readlink(child); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("readlink of a file: %v", err)
	}
	for _, nid := range []uint64{0, 1, im.Root() - 1, 1 << 32, 1<<64 - 1, uint64(len(im.data)) / nidUnit} {
		if _, err := im.Inode(nid); !errors.Is(err, ErrCorrupt) {
			t.Errorf("inode %d: %v", nid, err)
		}
	}
}

// A listing that stops after each number of entries and goes on from the cursor is the whole listing.
func TestReadDirResumes(t *testing.T) {
	im := open(t, image(t, wideTree(1000), 1000<<12))
	wide, err := im.Lookup(im.Root(), "wide")
	if err != nil {
		t.Fatal(err)
	}
	list := func(batch int) (names []string) {
		cursor := uint64(0)
		for {
			n := 0
			err := im.ReadDir(wide, cursor, func(d Dirent) bool {
				names = append(names, d.Name)
				cursor = d.Next
				n++
				return n < batch
			})
			if err != nil {
				t.Fatal(err)
			}
			if n < batch {
				return names
			}
		}
	}
	want := list(1 << 30)
	if len(want) != 1002 {
		t.Fatalf("%d entries", len(want))
	}
	for _, batch := range []int{1, 2, 3, 7, 100, 501, 1002, 1003} {
		if got := list(batch); !slices.Equal(got, want) {
			t.Errorf("in batches of %d: %d entries", batch, len(got))
		}
	}
	for from := range uint64(40_000) { // cursors from lseek
		last := ""
		if err := im.ReadDir(wide, from, func(d Dirent) bool { last = d.Name; return false }); err != nil {
			t.Fatalf("from %d: %q, %v", from, last, err)
		}
	}
}

func TestXattrMisses(t *testing.T) {
	im := open(t, image(t, sampleTree(), sampleSize))
	nid, err := im.Lookup(im.Root(), "linked")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "user.", "user.linke", "user.linked2", "trusted.linked", "system.posix_acl_access", "com.apple.x"} {
		if v, err := im.Getxattr(nid, name); !errors.Is(err, ErrNoXattr) {
			t.Errorf("%q: %q, %v", name, v, err)
		}
	}
	if _, err := im.Getxattr(im.Root(), "user.x"); !errors.Is(err, ErrNoXattr) {
		t.Error(err)
	}
	if names, err := im.Listxattr(im.Root()); err != nil || len(names) != 0 {
		t.Error(names, err)
	}
}

func TestPathAt(t *testing.T) {
	im := open(t, image(t, sampleTree(), sampleSize))
	tests := map[string]struct {
		off  int64
		path string
	}{
		"first of hard links": {8 << 12, "/bin/a"},
		"second block":        {9<<12 + 10, "/bin/a"},
		"behind the end":      {9<<12 + 4095, "/bin/a"},
		"next block":          {10 << 12, ""},
		"deeper":              {48<<12 + 2, "/xattrs/sub/f"},
		"beyond 4 GiB":        {1*gib + 4*gib + 12344, "/big"},
		"nobody's":            {0, ""},
		"negative":            {-1, ""},
		"out of range":        {1 << 62, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := im.PathAt(tt.off)
			if ok != (tt.path != "") || got != tt.path {
				t.Errorf("%q, %v, want %q", got, ok, tt.path)
			}
		})
	}
}

func TestPathsWith(t *testing.T) {
	with := func(n *Node, names ...string) *Node {
		n.Xattrs = make(map[string][]byte)
		for _, name := range names {
			n.Xattrs[name] = []byte("y")
		}
		return n
	}
	tree := func(n *Node) *Node {
		return dir(0o755, map[string]*Node{"a": with(dir(0o755, map[string]*Node{"b": dir(0o755, nil)}), "user.a"), "d": dir(0o755, map[string]*Node{"x": n})})
	}
	for name, tt := range map[string]struct {
		root  *Node
		limit int
		paths []string
		only  bool
	}{
		"none":      {wideTree(10_000), 0, nil, true},
		"root":      {with(dir(0o755, nil), "user.a"), 0, []string{""}, true},
		"one":       {tree(file(0, 1<<12)), 2, []string{"/a"}, true},
		"file":      {tree(with(file(0, 1<<12), "user.a")), 6, []string{"/a", "/d/x"}, true},
		"directory": {tree(with(dir(0o755, map[string]*Node{"y": with(dir(0o755, nil), "user.a")}), "user.a")), 12, []string{"/a", "/d/x", "/d/x/y"}, true},
		"too much":  {tree(with(file(0, 1<<12), "user.a")), 5, nil, false},
		"too long":  {tree(file(0, 1<<12)), 1, nil, false},
		"another":   {tree(with(file(0, 1<<12), "user.b")), 12, nil, false},
		"two":       {tree(with(file(0, 1<<12), "user.a", "user.b")), 12, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			paths, only := open(t, image(t, tt.root, 10_000<<12)).PathsWith("user.a", tt.limit)
			if only != tt.only || !slices.Equal(paths, tt.paths) {
				t.Errorf("%q, %v, want %q, %v", paths, only, tt.paths, tt.only)
			}
		})
	}
}

func TestHasWhiteouts(t *testing.T) {
	device := func(mode uint32, rdev uint64) *Node {
		return dir(0o755, map[string]*Node{"a": dir(0o755, nil), "d": dir(0o755, map[string]*Node{"x": {Mode: mode, Rdev: rdev}})})
	}
	for name, tt := range map[string]struct {
		root *Node
		want bool
	}{
		"none":         {wideTree(10_000), false},
		"whiteout":     {device(unix.S_IFCHR, 0), true},
		"with a mode":  {device(unix.S_IFCHR|0o600, 0), true},
		"null":         {device(unix.S_IFCHR, unix.Mkdev(1, 3)), false},
		"block device": {device(unix.S_IFBLK, 0), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := open(t, image(t, tt.root, 10_000<<12)).HasWhiteouts(); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	sound := image(t, dir(0o755, nil), 0)
	edit := func(f func(b []byte)) []byte {
		b := slices.Clone(sound)
		f(b)
		return b
	}
	tests := map[string][]byte{
		"an empty file":        {},
		"a short file":         sound[:4000],
		"a cut file":           sound[:4096],
		"an odd file":          append(slices.Clone(sound), 0),
		"another magic number": edit(func(b []byte) { b[superOffset] ^= 1 }),
		"a bad checksum":       edit(func(b []byte) { b[superOffset+4] ^= 1 }),
		"another feature":      edit(func(b []byte) { b[superOffset+80] |= 1; fixChecksum(b) }),
		"another block size":   edit(func(b []byte) { b[superOffset+12] = 9; fixChecksum(b) }),
		"another root":         edit(func(b []byte) { b[superOffset+14] = 9; fixChecksum(b) }),
		"more blocks":          edit(func(b []byte) { b[superOffset+36]++; fixChecksum(b) }),
		"text":                 []byte(strings.Repeat("no image ", 4096)),
	}
	for name, data := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			im, err := Open(path)
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, %v", im, err)
			}
		})
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func fixChecksum(b []byte) {
	sb := b[superOffset:blockSize]
	le.PutUint32(sb[4:], 0)
	le.PutUint32(sb[4:], superChecksum(sb))
}

func TestCloseTwice(t *testing.T) {
	im := open(t, image(t, dir(0o755, nil), 0))
	if err := errors.Join(im.Close(), im.Close()); err != nil {
		t.Error(err)
	}
}

func TestConcurrentReaders(t *testing.T) {
	root := sampleTree()
	im, want := open(t, image(t, root, sampleSize)), treeFacts(root)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got := imageFacts(t, im); len(got) != len(want) {
				t.Errorf("%d paths, want %d", len(got), len(want))
			}
		})
	}
	wg.Wait()
}
