package toc

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// Tar is the tar of a lazy layer, as it is put together of what readers get and of the rest.
type Tar interface {
	io.Reader
	// Origin returns where in the address space the bytes that the last Read has returned begin, all of which lie there in a row; -1 for
	// bytes that lie nowhere there.
	Origin() int64
}

// Shown is what readers get of a lazy layer, whose metadata image was made of its TOC.
type Shown struct {
	Image *metadata.Image
	Data  io.ReaderAt // the address space; what no chunk fills is zeros
}

// DifferenceError says in what the tree of a lazy layer is not that of its tar, at the first place where that was found.
type DifferenceError struct {
	Path string // as the tar or the tree has it: hostile bytes of any length
	What string
}

func (e *DifferenceError) Error() string {
	return fmt.Sprintf("TOC and tar differ: %s: %s", quote(e.Path), e.What)
}

// differ makes a DifferenceError.
func differ(path, format string, args ...any) error {
	return &DifferenceError{Path: path, What: fmt.Sprintf(format, args...)}
}

// Compare compares what is shown with the tree that a TOC of this tar describes, entry by entry as they come. In memory it has one bit for
// each inode, and a few words for each name of hard links. No error means that they are the same, names, attributes, contents and all. A
// *DifferenceError means that this tar needs a closer look, by CompareTree: where later entries replace earlier ones, only the whole
// tells. Other errors are those of t and of Data. It does not read on behind the tar's end.
func (s Shown) Compare(t Tar) error {
	c := &comparer{
		follower: newFollower(s, t),
		entered:  newNIDs(), reached: newNIDs(), opaque: newNIDs(), first: newNIDs(),
		links: map[uint64]struct{}{}, seed: maphash.MakeSeed(), rootTime: implied().Mtime,
	}
	if err := c.follow(c.add); err != nil {
		return err
	}
	return c.finish()
}

// comparer compares entries with the image one by one. What can become right only by later entries is a difference to it.
type comparer struct {
	*follower
	entered nids // that an entry has described; of inodes with several names see links
	reached nids // directories that something lies in
	opaque  nids // directories that are to be so
	first   nids // inodes with several names that were described by an entry of their own

	links map[uint64]struct{} // names of inodes with several, by keyOf
	seed  maphash.Seed

	rootTime time.Time // what the last entry for the root says
	lastDir  string    // that was looked up last, "" if none was
	lastNID  uint64
}

func (c *comparer) add(e *estargz.TOCEntry) error {
	name, err := cleanName(e.Name)
	if err != nil {
		return differ(e.Name, "%v", err)
	}
	if name == "" {
		return c.addRoot(e)
	}
	if isMarker(name) || isAUFS(name) {
		return nil
	}
	dirName, base := splitName(name)
	dir, err := c.dir(dirName)
	if err != nil {
		return err
	}
	switch {
	case base == opaqueMarker:
		c.opaque.set(dir)
		return nil
	case strings.HasPrefix(base, whiteoutPrefix):
		hidden, n, err := newWhiteout(base, e)
		if err != nil {
			return differ(name, "%v", err)
		}
		return c.described(dir, hidden, name, n)
	case e.Type == "hardlink":
		return c.addLink(dir, base, name, e)
	}
	n, err := newNode(e)
	if err != nil {
		return differ(name, "%v", err)
	}
	return c.described(dir, base, name, n)
}

func (c *comparer) addRoot(e *estargz.TOCEntry) error {
	n, err := newNode(e)
	if err != nil || !isDir(n) {
		return differ("/", "the root is no directory")
	}
	c.rootTime = n.Mtime
	return nil
}

// dir finds a directory of the image by its clean name.
func (c *comparer) dir(name string) (uint64, error) {
	if name == "" {
		return c.Image.Root(), nil
	}
	if name == c.lastDir {
		return c.lastNID, nil
	}
	dir := c.Image.Root()
	for base := range strings.SplitSeq(name, "/") {
		next, err := c.lookup(dir, base, name)
		if err != nil {
			return 0, err
		}
		dir = next
		c.reached.set(dir)
	}
	c.lastDir, c.lastNID = name, dir
	return dir, nil
}

// lookup finds what a directory of the image has under a name.
func (c *comparer) lookup(dir uint64, base, path string) (uint64, error) {
	nid, err := c.Image.Lookup(dir, base)
	switch {
	case errors.Is(err, metadata.ErrCorrupt):
		return 0, err
	case errors.Is(err, fs.ErrNotExist):
		return 0, differ(path, "is not in the TOC")
	case err != nil:
		return 0, differ(path, "%v", err)
	}
	return nid, nil
}

// described compares an entry that makes an inode of its own, with its contents.
func (c *comparer) described(dir uint64, base, path string, n *metadata.Node) error {
	nid, err := c.lookup(dir, base, path)
	if err != nil {
		return err
	}
	in, err := c.Image.Inode(nid)
	if err != nil {
		return err
	}
	if err := c.attributes(path, n, in); err != nil {
		return err
	}
	if err := c.xattrs(path, nid, n, isDir(n)); err != nil {
		return err
	}
	if n.Mode&unix.S_IFMT == unix.S_IFREG && n.Size > 0 {
		same, _, err := c.contents(n.Size, in.Offset)
		if err != nil {
			return err
		}
		if !same {
			return differ(path, "contents")
		}
	}
	if isDir(n) || in.Nlink == 1 {
		c.entered.set(nid)
		return nil
	}
	if c.first.has(nid) {
		return differ(path, "is a hard link to another file")
	}
	c.first.set(nid)
	c.links[c.keyOf(dir, base)] = struct{}{}
	return nil
}

// addLink compares a hard link, whose inode takes its attributes.
func (c *comparer) addLink(dir uint64, base, path string, e *estargz.TOCEntry) error {
	target, err := cleanName(strings.TrimLeft(e.LinkName, "/"))
	if err != nil || target == path || target == "" {
		return differ(path, "hard link to %s", quote(e.LinkName))
	}
	nid, err := c.lookup(dir, base, path)
	if err != nil {
		return err
	}
	targetDir, targetBase := splitName(target)
	to := c.Image.Root()
	if targetDir != "" {
		for part := range strings.SplitSeq(targetDir, "/") { // which does not say that anything lies there
			if to, err = c.lookup(to, part, target); err != nil {
				return err
			}
		}
	}
	linked, err := c.lookup(to, targetBase, target)
	if err != nil {
		return err
	}
	if linked != nid {
		return differ(path, "is no hard link to %s", quote(target))
	}
	if _, known := c.links[c.keyOf(to, targetBase)]; !known {
		return differ(path, "is a hard link to what comes later")
	}
	in, err := c.Image.Inode(nid)
	if err != nil {
		return err
	}
	n := &metadata.Node{Mode: in.Mode, Size: in.Size, Rdev: in.Rdev}
	if err := setAttributes(n, e); err != nil {
		return differ(path, "%v", err)
	}
	if err := c.attributes(path, n, in); err != nil {
		return err
	}
	if err := c.linkXattrs(path, nid, n); err != nil {
		return err
	}
	c.links[c.keyOf(dir, base)] = struct{}{}
	return nil
}

// keyOf stands for a name in a directory. Whoever made the tar does not know the seed.
func (c *comparer) keyOf(dir uint64, base string) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	maphash.WriteComparable(&h, dir)
	_, _ = h.WriteString(base)
	return h.Sum64()
}

// linkXattrs compares those of a hard link's entry, which come to those that its inode has.
func (c *comparer) linkXattrs(path string, nid uint64, n *metadata.Node) error {
	for name, want := range n.Xattrs {
		if err := c.xattr(path, nid, name, want); err != nil {
			return err
		}
	}
	if _, ok := n.Xattrs[capabilityXattr]; ok {
		return nil
	}
	_, err := c.Image.Getxattr(nid, capabilityXattr)
	switch {
	case errors.Is(err, metadata.ErrNoXattr):
		return nil
	case err != nil:
		return err
	}
	return differ(path, "xattr %s, which is gone with this hard link", quote(capabilityXattr))
}

// finish looks for what is in the image, and not in the tar.
func (c *comparer) finish() error {
	root := implied()
	root.Mtime = c.rootTime
	in, err := c.Image.Inode(c.Image.Root())
	if err != nil {
		return err
	}
	if err := c.attributes("/", root, in); err != nil {
		return err
	}
	if err := c.marked("/", c.Image.Root(), root); err != nil {
		return err
	}
	w := &walker{image: c.Image, dirs: newNIDs()}
	return w.walk(c.Image.Root(), "", func(dir uint64, d metadata.Dirent, path string) error {
		if d.Type != unix.S_IFDIR {
			return c.listed(dir, d, path)
		}
		if c.entered.has(d.NID) {
			return c.opaqued(path, d.NID)
		}
		if !c.reached.has(d.NID) && !c.opaque.has(d.NID) {
			return differ(path, "is not in the tar")
		}
		in, err := c.Image.Inode(d.NID)
		if err != nil {
			return err
		}
		if err := c.attributes(path, implied(), in); err != nil {
			return err
		}
		return c.marked(path, d.NID, implied())
	})
}

// listed says whether an entry has described what is no directory.
func (c *comparer) listed(dir uint64, d metadata.Dirent, path string) error {
	if c.entered.has(d.NID) {
		return nil
	}
	if _, ok := c.links[c.keyOf(dir, d.Name)]; ok {
		return nil
	}
	return differ(path, "is not in the tar")
}

// marked compares the xattrs of a directory that no entry describes.
func (c *comparer) marked(path string, nid uint64, n *metadata.Node) error {
	if err := c.xattrs(path, nid, n, true); err != nil {
		return err
	}
	return c.opaqued(path, nid)
}

// opaqued compares whether a directory is opaque.
func (c *comparer) opaqued(path string, nid uint64) error {
	got, err := c.Image.Getxattr(nid, opaqueXattr)
	if err != nil && !errors.Is(err, metadata.ErrNoXattr) {
		return err
	}
	if is, want := string(got) == "y", c.opaque.has(nid); is != want {
		return differ(path, "opaque: %t, in the tar %t", is, want)
	}
	return nil
}
