package fs

import (
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// TestHandlers asks the server what the kernel asks rarely, or never as long as it remembers.
func TestHandlers(t *testing.T) {
	files := []file{dir("d"), regular("d/file", noise(1, 5000))}
	for i := range 300 {
		files = append(files, regular("d/"+string(rune('A'+i)), nil))
	}
	l := buildBlob(t, files)
	n := newNode(t, Options{Mode: FUSE})
	n.mountLayer(t, newRegistry(t, l).source(l))
	s := n.server
	m, err := n.lookup(l.digest)
	if err != nil {
		t.Fatal(err)
	}
	id, im := m.shown.id, m.shown.image
	nid := func(dir uint64, name string) uint64 {
		got, err := im.Lookup(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	d := nid(im.Root(), "d")
	node, fileNode := treeNode(id, d), treeNode(id, nid(d, "file"))

	t.Run("getattr", func(t *testing.T) {
		for _, c := range []struct {
			node uint64
			mode uint32
			size uint64
			code fuse.Status
		}{
			{rootNode, unix.S_IFDIR | 0o700, 0, fuse.OK},
			{blobNode(id), unix.S_IFREG | 0o400, 8192, fuse.OK},
			{fileNode, unix.S_IFREG | 0o644, 5000, fuse.OK},
			{blobNode(id + 1), 0, 0, fuse.Status(unix.ESTALE)},
			{treeNode(id, 1<<31), 0, 0, fuse.EIO},
		} {
			in, out := fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: c.node}}, fuse.AttrOut{}
			code := s.GetAttr(nil, &in, &out)
			if code != c.code || out.Mode != c.mode || out.Size != c.size || code.Ok() && out.Ino != c.node {
				t.Errorf("%#x: %v, %+v", c.node, code, out.Attr)
			}
		}
	})

	t.Run("readdir", func(t *testing.T) {
		list := func(size int, plus bool) (names []string) {
			in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: node}}
			for {
				out := fuse.NewDirEntryList(make([]byte, size), in.Offset)
				var entries []fuse.DirEntry
				var code fuse.Status
				var err error
				if plus {
					code = s.ReadDirPlus(nil, &in, out)
					entries, _, err = fuse.ParseDirLookupEntries(out.Bytes())
				} else {
					code = s.ReadDir(nil, &in, out)
					entries, err = fuse.ParseDirEntries(out.Bytes())
				}
				if !code.Ok() || err != nil {
					t.Fatal(code, err)
				}
				if len(entries) == 0 {
					return names
				}
				for _, e := range entries {
					names = append(names, e.Name)
				}
				in.Offset = entries[len(entries)-1].Off
			}
		}
		want := list(1<<20, false)
		if len(want) != 303 {
			t.Fatalf("%d names", len(want))
		}
		for _, plus := range []bool{false, true} {
			if got := list(300, plus); !slices.Equal(got, want) {
				t.Errorf("in small pieces, plus %v: %q, want %q", plus, got, want)
			}
		}
	})

	t.Run("wrong kinds", func(t *testing.T) {
		for _, of := range []uint64{blobNode(id), blobNode(id + 1), fileNode} {
			h := fuse.InHeader{NodeId: of}
			if code := s.Lookup(nil, &h, "x", &fuse.EntryOut{}); code.Ok() {
				t.Errorf("%#x: lookup is fine", of)
			}
			if code := s.ReadDir(nil, &fuse.ReadIn{InHeader: h}, fuse.NewDirEntryList(make([]byte, 4096), 0)); code.Ok() {
				t.Errorf("%#x: readdir is fine", of)
			}
			if _, code := s.Readlink(nil, &h); code.Ok() {
				t.Errorf("%#x: readlink is fine", of)
			}
		}
		if _, code := s.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: node}}, make([]byte, 10)); code.Ok() {
			t.Error("reading a directory is fine")
		}
		in := fuse.OpenIn{InHeader: fuse.InHeader{NodeId: blobNode(id)}, Flags: unix.O_RDWR}
		if code := (&server{}).Open(nil, &in, &fuse.OpenOut{}); code != fuse.EROFS {
			t.Errorf("open for writing: %v", code)
		}
	})

	t.Run("read", func(t *testing.T) {
		for _, c := range []struct{ off, n, want int }{{0, 100, 100}, {4000, 2000, 1000}, {5000, 1, 0}, {1 << 40, 1, 0}} {
			in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: fileNode}, Offset: uint64(c.off)}
			res, code := s.Read(nil, &in, make([]byte, c.n))
			if !code.Ok() || res.Size() != c.want {
				t.Errorf("%d at %d: %d, %v; want %d", c.n, c.off, res.Size(), code, c.want)
			}
		}
	})
}
