package toc

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

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

// follower goes through a tar once, beside what is shown.
type follower struct {
	Shown
	from   *origins
	in     *tar.Reader
	buf    []byte // of the tar
	shown  []byte // of Data
	counts int    // entries
}

func newFollower(s Shown, t Tar) *follower {
	from := &origins{tar: t}
	return &follower{Shown: s, from: from, in: tar.NewReader(from), buf: make([]byte, indexBuffer)}
}

// follow calls add with each entry of the tar, as its TOC has it.
func (f *follower) follow(add func(*estargz.TOCEntry) error) error {
	for {
		h, err := f.in.Next()
		switch {
		case f.from.err != nil:
			return f.from.err
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return differ("", "%v: %v", ErrTar, err)
		case h.Typeflag == tar.TypeXGlobalHeader:
			continue
		}
		if f.counts++; f.counts > MaxEntries {
			return differ(h.Name, "the tar has more than %d entries", MaxEntries)
		}
		e, err := entryOf(h)
		if err != nil {
			return differ(h.Name, "%v", err)
		}
		readAgain(e)
		if err := add(e); err != nil {
			return err
		}
	}
}

// readAgain makes of an entry what reading it from a TOC makes of it.
func readAgain(e *estargz.TOCEntry) {
	e.Name, e.LinkName = jsonString(e.Name), jsonString(e.LinkName)
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		if told := jsonString(name); told != name {
			e.Xattrs[told] = e.Xattrs[name]
			delete(e.Xattrs, name)
		}
	}
}

// jsonString is what JSON has of a string: for each byte that is not of UTF-8 U+FFFD.
func jsonString(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// origins reads a tar, and knows where the bytes of the last reads come from.
type origins struct {
	tar   Tar
	reads int   // since it was set to 0
	n     int   // bytes of the last one
	err   error // that is not of the tar, but of reading it
}

func (o *origins) Read(p []byte) (int, error) {
	n, err := o.tar.Read(p)
	o.reads++
	o.n = n
	if err != nil && !errors.Is(err, io.EOF) {
		o.err = err
	}
	return n, err
}

// contents compares a file of the tar, which in stands at, with size bytes of the address space from off on; off is -1 where they cannot be
// the same anyway. origin is where all of the file lies there by itself, -1 if it does not lie there in a row.
func (f *follower) contents(size, off int64) (same bool, origin int64, err error) {
	same, origin = off >= 0, -1
	for done := int64(0); done < size; {
		f.from.reads = 0
		n, err := f.in.Read(f.buf[:min(int64(len(f.buf)), size-done)])
		if f.from.err != nil {
			return false, 0, f.from.err
		}
		if n == 0 && err != nil {
			return false, 0, differ("", "%v: %v", ErrTar, err)
		}
		at := int64(-1)
		if f.from.reads == 1 && f.from.n == n {
			at = f.from.tar.Origin()
		}
		switch {
		case done == 0:
			origin = at
		case at < 0 || at != origin+done:
			origin = -1
		}
		if same && at != off+done {
			if same, err = f.reads(f.buf[:n], off+done); err != nil {
				return false, 0, err
			}
		}
		done += int64(n)
	}
	return same, origin, nil
}

// reads says whether the address space has p at off.
func (f *follower) reads(p []byte, off int64) (bool, error) {
	if f.shown == nil {
		f.shown = make([]byte, len(f.buf))
	}
	got := f.shown[:len(p)]
	if n, err := f.Data.ReadAt(got, off); n < len(got) {
		return false, fmt.Errorf("read data file at %d: %w", off, err)
	}
	return bytes.Equal(got, p), nil
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

// attributes compares what an inode of the image has with what the tar says, but for xattrs and contents.
func (f *follower) attributes(path string, n *metadata.Node, in metadata.Inode) error {
	switch {
	case n.Mode != in.Mode:
		return differ(path, "mode %#o, in the tar %#o", in.Mode, n.Mode)
	case n.UID != in.UID || n.GID != in.GID:
		return differ(path, "owner %d:%d, in the tar %d:%d", in.UID, in.GID, n.UID, n.GID)
	case !sameTime(n.Mtime, in.Mtime):
		return differ(path, "modification time %s, in the tar %s", in.Mtime.Format(time.RFC3339Nano), n.Mtime.Format(time.RFC3339Nano))
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if n.Size != in.Size {
			return differ(path, "%d bytes, in the tar %d", in.Size, n.Size)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if n.Rdev != in.Rdev {
			return differ(path, "device %d:%d, in the tar %d:%d",
				unix.Major(in.Rdev), unix.Minor(in.Rdev), unix.Major(n.Rdev), unix.Minor(n.Rdev))
		}
	}
	return nil
}

// sameTime says whether a TOC may have a time of a tar so: podman's have the fraction, estargz rounds it, and leaves out the first second after
// the epoch. Cutting it off is no lie either.
func sameTime(tar, shown time.Time) bool {
	if tar.Equal(shown) || shown.Equal(tar.Truncate(time.Second)) {
		return true
	}
	rounded, err := parseTime(timeOf(tar.Round(time.Second)))
	return err == nil && shown.Equal(rounded)
}

// xattrs compares those that an inode of the image has, and a symlink's target, with what the tar says. That a directory is opaque is passed
// over if that is to be looked at elsewhere.
func (f *follower) xattrs(path string, nid uint64, n *metadata.Node, passOpaque bool) error {
	if n.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err := f.Image.Readlink(nid)
		if err != nil {
			return err
		}
		if target != n.Target {
			return differ(path, "leads to %s, in the tar to %s", quote(target), quote(n.Target))
		}
	}
	names, err := f.Image.Listxattr(nid)
	if err != nil {
		return err
	}
	count := 0
	for _, name := range names {
		if passOpaque && name == opaqueXattr {
			continue
		}
		count++
		if _, ok := n.Xattrs[name]; !ok {
			return differ(path, "xattr %s, which the tar does not have", quote(name))
		}
	}
	for name, want := range n.Xattrs {
		if err := f.xattr(path, nid, name, want); err != nil {
			return err
		}
	}
	if count != len(n.Xattrs) { // a name twice: Write has not made this
		return fmt.Errorf("%w: xattrs of %s", metadata.ErrCorrupt, quote(path))
	}
	return nil
}

// xattr compares one xattr.
func (f *follower) xattr(path string, nid uint64, name string, want []byte) error {
	got, err := f.Image.Getxattr(nid, name)
	switch {
	case errors.Is(err, metadata.ErrNoXattr):
		return differ(path, "no xattr %s, which the tar has", quote(name))
	case err != nil:
		return err
	case !bytes.Equal(got, want):
		return differ(path, "xattr %s", quote(name))
	}
	return nil
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

// walker walks over an image.
type walker struct {
	image *metadata.Image
	dirs  nids // that were entered
	depth int
}

// walk calls each with all entries below a directory. A damaged image gives an error with metadata.ErrCorrupt.
func (w *walker) walk(dir uint64, path string, each func(dir uint64, d metadata.Dirent, path string) error) (err error) {
	if w.dirs.has(dir) || w.depth > maxPath {
		return fmt.Errorf("%w: %s is in itself", metadata.ErrCorrupt, quote(path))
	}
	w.dirs.set(dir)
	w.depth++
	defer func() { w.depth-- }()
	readErr := w.image.ReadDir(dir, 0, func(d metadata.Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		below := d.Name
		if path != "" {
			below = path + "/" + d.Name
		}
		if err = each(dir, d, below); err == nil && d.Type == unix.S_IFDIR {
			err = w.walk(d.NID, below, each)
		}
		return err == nil
	})
	return errors.Join(err, readErr)
}

// nids is a set of numbers of inodes.
type nids struct {
	bits map[uint64]*[nidPage / 64]uint64
}

// nidPage is of how many inodes' bits a piece of the set is. Those of an image lie close together.
const nidPage = 1 << 15

func newNIDs() nids { return nids{map[uint64]*[nidPage / 64]uint64{}} }

func (s nids) set(nid uint64) {
	page := s.bits[nid/nidPage]
	if page == nil {
		page = new([nidPage / 64]uint64)
		s.bits[nid/nidPage] = page
	}
	page[nid%nidPage/64] |= 1 << (nid % 64)
}

func (s nids) has(nid uint64) bool {
	page := s.bits[nid/nidPage]
	return page != nil && page[nid%nidPage/64]>>(nid%64)&1 != 0
}
