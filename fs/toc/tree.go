package toc

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// tree grows a layer's tree entry by entry, in the TOC's order, which is the tar's.
type tree struct {
	root  *metadata.Node
	nodes int // made so far, replaced ones included

	lastDir  string // the directory that was looked up last, "" if none was: entries come directory by directory
	lastNode *metadata.Node

	whiteouts []whiteout
	pending   map[string]*pendingLink     // links to what has not come yet, by clean name
	order     []string                    // of pending
	replaced  map[*metadata.Node]struct{} // files of which a name was given to a later entry
	merged    map[*metadata.Node]string   // inodes that more than one entry gave xattrs, and such an entry's name

	// implied are the directories that no entry describes, by clean name; nil in a TOC's tree, where nobody asks for them. A tree with
	// it is that of a plain layer: it has no files of the format's own, and its entries come as they are unpacked.
	implied map[string]*metadata.Node
}

func newTree() *tree {
	return &tree{
		root:     implied(),
		pending:  map[string]*pendingLink{},
		replaced: map[*metadata.Node]struct{}{},
		merged:   map[*metadata.Node]string{},
	}
}

// implied is a directory that no entry describes. What containerd does for it, it cannot do here, which is to look
// at the layers below.
func implied() *metadata.Node {
	return &metadata.Node{Mode: unix.S_IFDIR | 0o755, Mtime: time.Unix(0, 0).UTC()}
}

// add puts an entry of any type but chunk into the tree. It returns the inode made for a regular file, nil if the
// entry made none.
func (t *tree) add(e *estargz.TOCEntry) (*metadata.Node, error) {
	name, err := cleanName(e.Name)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return nil, t.addRoot(e)
	}
	if t.implied == nil && isMarker(name) || isAUFS(name) {
		return nil, nil
	}
	dirName, base := splitName(name)
	dir, err := t.mkdirs(dirName)
	if err != nil {
		return nil, err
	}
	switch {
	case strings.HasPrefix(base, whiteoutPrefix):
		return nil, t.addWhiteout(dir, base, e)
	case e.Type == "hardlink":
		return nil, t.addLink(dir, base, name, e)
	case e.Type == "dir":
		return nil, t.addDir(dir, base, e)
	}
	n, err := newNode(e)
	if err != nil {
		return nil, err
	}
	if err := checkXattrs(n); err != nil {
		return nil, err
	}
	if err := t.put(dir, base, n); err != nil || e.Type != "reg" {
		return nil, err
	}
	return n, nil
}

// isMarker reports whether an entry is the format's own: a landmark, or the TOC of a blob that was made from a lazy one.
func isMarker(name string) bool {
	return name == estargz.PrefetchLandmark || name == estargz.NoPrefetchLandmark || name == estargz.TOCTarName
}

// addRoot takes the time of an entry for the root and nothing else: containerd passes over that entry, and makes the
// directory itself with mode 0755.
func (t *tree) addRoot(e *estargz.TOCEntry) error {
	if e.Type != "dir" {
		return errors.New("the root is no directory")
	}
	n, err := newNode(e)
	if err != nil {
		return err
	}
	t.root.Mtime = n.Mtime
	return nil
}

// addDir makes a directory, or gives the one that is there the attributes of a later entry.
func (t *tree) addDir(parent *metadata.Node, base string, e *estargz.TOCEntry) error {
	if old := parent.Children[base]; isDir(old) {
		delete(t.implied, strings.Trim(path.Clean(e.Name), "/"))
		return t.merge(old, e)
	}
	n, err := newNode(e)
	if err != nil {
		return err
	}
	if err := checkXattrs(n); err != nil {
		return err
	}
	return t.put(parent, base, n)
}

// merge gives n the attributes of a further entry. The sum of its xattrs is checked at the end: here, a TOC could
// have it counted a million times.
func (t *tree) merge(n *metadata.Node, e *estargz.TOCEntry) error {
	if len(e.Xattrs) > 0 {
		t.merged[n] = e.Name
	}
	return setAttributes(n, e)
}

// put gives n a name. A name that is taken goes to the later entry if it is of the same type: that is how a tar is
// updated by appending to it. In a plain layer the types do not matter, and a directory goes with all that is in it.
func (t *tree) put(dir *metadata.Node, base string, n *metadata.Node) error {
	old := dir.Children[base]
	if old == n {
		return nil
	}
	if old != nil {
		if was, is := old.Mode&unix.S_IFMT, n.Mode&unix.S_IFMT; was != is && t.implied == nil {
			return fmt.Errorf("name stands there twice, for a %s and for a %s", typeName(was), typeName(is))
		}
		if t.replaced[old] = struct{}{}; isDir(old) {
			t.lastDir, t.lastNode = "", nil
		}
	}
	if err := t.count(); err != nil {
		return err
	}
	if dir.Children == nil {
		dir.Children = map[string]*metadata.Node{}
	}
	dir.Children[base] = n
	return nil
}

// count bounds the tree: a path of 4 KiB implies up to 2,000 directories.
func (t *tree) count() error {
	if t.nodes++; t.nodes > MaxEntries {
		return fmt.Errorf("layer has more than %d files and implied directories", MaxEntries)
	}
	return nil
}

// mkdirs finds a directory by its clean name, making what is missing.
func (t *tree) mkdirs(name string) (*metadata.Node, error) {
	switch name {
	case "":
		return t.root, nil
	case t.lastDir:
		return t.lastNode, nil
	}
	dir, end := t.root, -1 // of the component's name
	for base := range strings.SplitSeq(name, "/") {
		end += 1 + len(base)
		next := dir.Children[base]
		if next == nil {
			if strings.HasPrefix(base, whiteoutPrefix) {
				return nil, errors.New("is beneath a whiteout")
			}
			next = implied()
			if err := t.put(dir, base, next); err != nil {
				return nil, err
			}
			if t.implied != nil {
				t.implied[name[:end]] = next
			}
		}
		if !isDir(next) {
			return nil, fmt.Errorf("is beneath %s, which is a %s", quote(base), typeName(next.Mode&unix.S_IFMT))
		}
		dir = next
	}
	t.lastDir, t.lastNode = name, dir
	return dir, nil
}

// lookup finds an inode by its clean name, nil if there is none.
func (t *tree) lookup(name string) *metadata.Node {
	n := t.root
	if name == "" {
		return n
	}
	for base := range strings.SplitSeq(name, "/") {
		if n = n.Children[base]; n == nil {
			return nil
		}
	}
	return n
}

// finish does what had to wait for the last entry.
func (t *tree) finish() error {
	if err := t.resolveLinks(); err != nil {
		return err
	}
	if err := t.placeWhiteouts(); err != nil {
		return err
	}
	for n, name := range t.merged {
		if err := checkXattrs(n); err != nil {
			return refuse(name, err)
		}
	}
	return nil
}

// forgotten are the replaced files that have no other name left.
func (t *tree) forgotten() map[*metadata.Node]struct{} {
	if len(t.replaced) == 0 {
		return nil
	}
	for dirs := []*metadata.Node{t.root}; len(dirs) > 0; {
		dir := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		for _, n := range dir.Children {
			if isDir(n) {
				dirs = append(dirs, n)
			} else {
				delete(t.replaced, n)
			}
		}
	}
	return t.replaced
}

func isDir(n *metadata.Node) bool { return n != nil && n.Mode&unix.S_IFMT == unix.S_IFDIR }

func typeName(mode uint32) string {
	switch mode {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFREG:
		return "regular file"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	}
	return "device"
}
