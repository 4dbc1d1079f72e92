package toc

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// CompareTree does what Compare does, and its word is the last: it makes the whole tree of the tar first, in memory, as large as that which
// the metadata image was made of. A *DifferenceError means that a TOC of this tar does not give what is shown.
func (s Shown) CompareTree(t Tar) error {
	c := &treeComparer{
		follower: newFollower(s, t), tree: newTree(),
		dirs: newNIDs(), nidOf: map[*metadata.Node]uint64{}, nodeOf: map[uint64]*metadata.Node{},
	}
	if err := c.follow(c.add); err != nil {
		return err
	}
	if err := c.tree.finish(); err != nil {
		return differOf("", err)
	}
	return c.compare("", c.Image.Root(), c.tree.root)
}

// differOf makes a DifferenceError of what the tree of a TOC refuses.
func differOf(path string, err error) error {
	if entry := (*EntryError)(nil); errors.As(err, &entry) {
		return differ(entry.Name, "%s", entry.Reason)
	}
	return differ(path, "%v", err)
}

// treeComparer compares a whole tree with the image.
type treeComparer struct {
	*follower
	tree *tree
	dirs nids // that were compared

	// Of inodes that are no directories, both ways: who has several names has the same ones.
	nidOf  map[*metadata.Node]uint64
	nodeOf map[uint64]*metadata.Node
}

// elsewhere is the place of contents that readers do not get in a row.
const elsewhere = -1

// add adds an entry to the tree. The place of its contents is the one that its name has in the image, if they are the same there, else where
// they are by themselves: its name may be another one in the end.
func (c *treeComparer) add(e *estargz.TOCEntry) error {
	n, err := c.tree.add(e)
	if err != nil {
		return differOf(e.Name, err)
	}
	if n == nil || e.Type != "reg" || e.Size == 0 {
		return nil
	}
	shown, err := c.place(e)
	if err != nil {
		return err
	}
	same, origin, err := c.contents(e.Size, shown)
	if err != nil {
		return err
	}
	if n.Offset = origin; same {
		n.Offset = shown
	}
	return nil
}

// place is where the image has a file of an entry's name and size, elsewhere if it has none.
func (c *treeComparer) place(e *estargz.TOCEntry) (int64, error) {
	name, err := cleanName(e.Name)
	if err != nil {
		return elsewhere, differ(e.Name, "%v", err)
	}
	nid := c.Image.Root()
	for base := range strings.SplitSeq(name, "/") {
		nid, err = c.Image.Lookup(nid, base)
		if errors.Is(err, metadata.ErrCorrupt) {
			return elsewhere, err
		}
		if err != nil {
			return elsewhere, nil
		}
	}
	in, err := c.Image.Inode(nid)
	if err != nil {
		return elsewhere, err
	}
	if in.Mode&unix.S_IFMT != unix.S_IFREG || in.Size != e.Size {
		return elsewhere, nil
	}
	return in.Offset, nil
}

// compare compares an inode of the tree with one of the image, and all below it.
func (c *treeComparer) compare(path string, nid uint64, n *metadata.Node) error {
	in, err := c.Image.Inode(nid)
	if err != nil {
		return err
	}
	at := "/" + path
	if err := c.attributes(at, n, in); err != nil {
		return err
	}
	if err := c.xattrs(at, nid, n, false); err != nil {
		return err
	}
	if isDir(n) {
		return c.children(path, nid, n)
	}
	to, linked := c.nidOf[n]
	from, back := c.nodeOf[nid]
	if linked && to != nid || back && from != n {
		return differ(at, "hard links")
	}
	if n.Mode&unix.S_IFMT == unix.S_IFREG && n.Size > 0 && n.Offset != in.Offset {
		return differ(at, "contents")
	}
	c.nidOf[n], c.nodeOf[nid] = nid, n
	return nil
}

// children compares what lies in a directory.
func (c *treeComparer) children(path string, dir uint64, n *metadata.Node) error {
	if c.dirs.has(dir) {
		return differ("/"+path, "is another directory too")
	}
	c.dirs.set(dir)
	var differs error
	seen := 0
	err := c.Image.ReadDir(dir, 0, func(d metadata.Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		below := strings.TrimPrefix(path+"/"+d.Name, "/")
		child := n.Children[d.Name]
		if child == nil {
			differs = differ("/"+below, "is not in the tar")
			return false
		}
		seen++
		differs = c.compare(below, d.NID, child)
		return differs == nil
	})
	if err = errors.Join(differs, err); err != nil || seen == len(n.Children) {
		return err
	}
	return c.missing(path, dir, n)
}

// missing is the error for a directory that lacks a child.
func (c *treeComparer) missing(path string, dir uint64, n *metadata.Node) error {
	var names []string
	for name := range n.Children {
		if _, err := c.Image.Lookup(dir, name); errors.Is(err, fs.ErrNotExist) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return differ("/"+path, "has a name twice")
	}
	return differ(strings.TrimSuffix("/"+path, "/")+"/"+slices.Min(names), "is not in the TOC")
}
