package metadata

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// facts is all that can be seen of one path, whoever looks: the tree, our reader, go-erofs or the kernel.
type facts struct {
	Mode, UID, GID, Nlink uint32
	Sec                   int64
	Nsec                  int
	Rdev                  uint64
	Size                  int64 // not of directories
	Offset                int64 // of regular files that are not empty
	Target                string
	Xattrs                string // names and values, sorted
	First                 string // the first path of the same inode
	Entries               string // of a directory, in order
}

// treeFacts says what must be seen of the tree under root, by path.
func treeFacts(root *Node) map[string]facts {
	links := map[*Node]uint32{}
	var walk func(name string, n *Node, f func(string, *Node))
	walk = func(name string, n *Node, f func(string, *Node)) {
		f(name, n)
		for _, c := range slices.Sorted(maps.Keys(n.Children)) {
			walk(path.Join(name, c), n.Children[c], f)
		}
	}
	walk("/", root, func(_ string, n *Node) {
		links[n]++
		for _, c := range n.Children {
			if c.Mode&unix.S_IFMT == unix.S_IFDIR {
				links[n]++
			}
		}
	})
	firsts := map[*Node]string{}
	all := map[string]facts{}
	walk("/", root, func(name string, n *Node) {
		if _, ok := firsts[n]; !ok {
			firsts[n] = name
		}
		all[name] = nodeFacts(n, links[n], firsts[n])
	})
	return all
}

func nodeFacts(n *Node, links uint32, first string) facts {
	f := facts{
		Mode: n.Mode, UID: n.UID, GID: n.GID, Nlink: links,
		Sec: n.Mtime.Unix(), Nsec: n.Mtime.Nanosecond(),
		Rdev: n.Rdev, Size: n.Size, Target: n.Target, First: first,
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if n.Size > 0 {
			f.Offset = n.Offset
		}
	case unix.S_IFDIR:
		f.Nlink++
		f.Entries = joinNames(append(slices.Collect(maps.Keys(n.Children)), ".", ".."))
	case unix.S_IFLNK:
		f.Size = int64(len(n.Target))
	}
	xattrs := map[string]string{}
	for k, v := range n.Xattrs {
		xattrs[k] = string(v)
	}
	f.Xattrs = joinXattrs(xattrs)
	return f
}

func joinNames(names []string) string {
	slices.Sort(names)
	return joinInOrder(names)
}

func joinInOrder(names []string) string { return strings.Join(names, "\x00") }

func joinXattrs(xattrs map[string]string) string {
	s := ""
	for _, k := range slices.Sorted(maps.Keys(xattrs)) {
		s += k + "\x00" + xattrs[k] + "\x00"
	}
	return s
}

// imageFacts is what our reader sees.
func imageFacts(t *testing.T, im *Image) map[string]facts {
	t.Helper()
	firsts := map[uint64]string{}
	all := map[string]facts{}
	var walk func(name string, nid, parent uint64)
	walk = func(name string, nid, parent uint64) {
		f, children := inodeFacts(t, im, nid, parent)
		if _, ok := firsts[nid]; !ok {
			firsts[nid] = name
		}
		f.First = firsts[nid]
		all[name] = f
		for _, d := range children {
			walk(path.Join(name, d.Name), d.NID, nid)
		}
	}
	walk("/", im.Root(), im.Root())
	if im.NumInodes() != uint64(len(firsts)) {
		t.Errorf("%d inodes, image says %d", len(firsts), im.NumInodes())
	}
	return all
}

func inodeFacts(t *testing.T, im *Image, nid, parent uint64) (f facts, children []Dirent) {
	t.Helper()
	in, err := im.Inode(nid)
	if err != nil {
		t.Fatal(err)
	}
	f = facts{
		Mode: in.Mode, UID: in.UID, GID: in.GID, Nlink: in.Nlink,
		Sec: in.Mtime.Unix(), Nsec: in.Mtime.Nanosecond(),
		Rdev: in.Rdev, Size: in.Size, Offset: in.Offset,
	}
	names, err := im.Listxattr(nid)
	if err != nil {
		t.Fatal(err)
	}
	xattrs := map[string]string{}
	for _, name := range names {
		value, err := im.Getxattr(nid, name)
		if err != nil {
			t.Fatal(err)
		}
		xattrs[name] = string(value)
	}
	f.Xattrs = joinXattrs(xattrs)
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		if f.Target, err = im.Readlink(nid); err != nil {
			t.Fatal(err)
		}
	case unix.S_IFDIR:
		f.Size = 0
		f.Entries, children = dirFacts(t, im, nid, parent)
	}
	return f, children
}

// dirFacts lists a directory and looks every name up.
func dirFacts(t *testing.T, im *Image, nid, parent uint64) (entries string, children []Dirent) {
	t.Helper()
	var names []string
	err := im.ReadDir(nid, 0, func(d Dirent) bool {
		names = append(names, d.Name)
		want := d.NID
		switch d.Name {
		case ".":
			want = nid
		case "..":
			want = parent
		default:
			children = append(children, d)
		}
		if got, err := im.Lookup(nid, d.Name); err != nil || got != want || d.NID != want {
			t.Errorf("lookup %q in %d: %d, %v, want %d", d.Name, nid, got, err, want)
		}
		if in, err := im.Inode(d.NID); err != nil || in.Mode&unix.S_IFMT != d.Type {
			t.Errorf("%q is of type %#o in its directory, %#o in its inode (%v)", d.Name, d.Type, in.Mode, err)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return joinInOrder(names), children
}

// compare reports the first few differences.
func compare(t *testing.T, got, want map[string]facts) {
	t.Helper()
	left := 5
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[name]; g != want[name] && left > 0 {
			left--
			t.Errorf("%.80q (found %v):\n got  %.600s\n want %.600s", name, ok, fmt.Sprintf("%+v", g), fmt.Sprintf("%+v", want[name]))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q should not be there", name)
		}
	}
}
