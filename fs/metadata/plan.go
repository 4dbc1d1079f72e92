package metadata

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A plan is the first pass over a tree: every inode and entry, checked, in order and with its place in the image.
type plan struct {
	dataSize int64
	inodes   []planned // breadth first, so that a directory's children lie together; the root is the first
	entries  []entry   // a directory's entries are together and in the order of their bytes
	metaEnd  int64     // bytes into the image: end of the inodes, begin of the whole blocks
	blocks   uint32    // of the image
}

// planned is one inode. It refers to others by their place in plan.inodes.
type planned struct {
	node        *Node
	size        int64  // for stat
	parent      uint32 // the directory of the first name
	name        uint32 // the first name, in plan.entries; unused for the root
	first, last uint32 // directories: entries [first, last) of plan.entries
	links       uint32
	nid         uint32
	block       uint32 // where whole blocks of directory entries or of a symlink's target begin
	xattrLen    uint32 // bytes of the xattr area
	layout      uint8
}

// entry is 24 bytes, and most of what a plan needs in memory; so the directory that holds it is not in it.
type entry struct {
	name  string
	inode uint32
}

func newPlan(root *Node, o Options) (*plan, error) {
	if err := checkData(o.DataSize); err != nil {
		return nil, err
	}
	if root == nil || root.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, errors.New("/: root is no directory")
	}
	inodes, entries := census(root)
	p := &plan{
		dataSize: o.DataSize,
		inodes:   make([]planned, 0, inodes),
		entries:  make([]entry, 0, entries),
	}
	if err := p.walk(root); err != nil {
		return nil, err
	}
	return p, p.place()
}

// census counts, so that nothing needs to grow later: inodes as if there were no hard links, entries exactly.
func census(root *Node) (inodes, entries int) {
	inodes = 1
	seen := map[*Node]struct{}{root: {}}
	for dirs := []*Node{root}; len(dirs) > 0; {
		d := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		inodes += len(d.Children)
		entries += len(d.Children) + 2
		for _, c := range d.Children {
			if c == nil || c.Mode&unix.S_IFMT != unix.S_IFDIR {
				continue
			}
			if _, ok := seen[c]; !ok {
				seen[c] = struct{}{}
				dirs = append(dirs, c)
			}
		}
	}
	return inodes, entries
}

// walk fills p.inodes and p.entries.
func (p *plan) walk(root *Node) error {
	root.number = 0
	p.inodes = append(p.inodes, planned{node: root, links: 2})
	if err := p.check(0); err != nil {
		return err
	}
	for i := 0; i < len(p.inodes); i++ {
		if p.inodes[i].node.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if err := p.list(uint32(i)); err != nil {
			return err
		}
	}
	return nil
}

// list adds the entries of directory dir and those of its children that are new.
func (p *plan) list(dir uint32) error {
	d := &p.inodes[dir]
	d.first = uint32(len(p.entries))
	p.entries = append(p.entries, entry{".", dir}, entry{"..", d.parent})
	for name := range d.node.Children {
		if err := checkName(name); err != nil {
			return fmt.Errorf("%s: %q: %w", p.path(dir), name, err)
		}
		p.entries = append(p.entries, entry{name: name})
	}
	d.last = uint32(len(p.entries))
	children := d.node.Children // d moves when p.inodes grows
	for i := sortEntries(p.entries, d.first, d.last); i < d.last; i++ {
		if e := &p.entries[i]; e.name != "." && e.name != ".." {
			if err := p.link(dir, i, children[e.name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// sortEntries sorts entries[first:last] as the kernel compares them, and returns first.
func sortEntries(entries []entry, first, last uint32) uint32 {
	slices.SortFunc(entries[first:last], func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return first
}

// find returns the inode that n has been given, if it has one: then this is its second name. A number from another plan
// does not lead back to n.
func (p *plan) find(n *Node) (i uint32, found bool) {
	return n.number, int(n.number) < len(p.inodes) && p.inodes[n.number].node == n
}

// link gives entry e of directory dir its inode, a new one unless n has one.
func (p *plan) link(dir, e uint32, n *Node) error {
	if n == nil {
		return fmt.Errorf("%s: no node", p.join(dir, p.entries[e].name))
	}
	if i, found := p.find(n); found {
		p.entries[e].inode = i
		p.inodes[i].links++
		return p.checkLink(dir, e, i)
	}
	i := uint32(len(p.inodes))
	n.number = i
	p.entries[e].inode = i
	p.inodes = append(p.inodes, planned{node: n, parent: dir, name: e, links: 1})
	if n.Mode&unix.S_IFMT == unix.S_IFDIR {
		p.inodes[i].links = 2
		p.inodes[dir].links++
	}
	return p.check(i)
}

// checkLink refuses a second name for a directory, which is what a cycle is too.
func (p *plan) checkLink(dir, e, i uint32) error {
	if p.inodes[i].node.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return fmt.Errorf("%s: is the directory %s again", p.join(dir, p.entries[e].name), p.path(i))
}

// check looks at inode i and fills in what only depends on its node.
func (p *plan) check(i uint32) error {
	if i == math.MaxUint32 {
		return errors.New("too many inodes")
	}
	in := &p.inodes[i]
	area, err := xattrArea(in.node.Xattrs)
	if err == nil {
		err = in.node.check(p.dataSize)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.path(i), err)
	}
	in.xattrLen = uint32(area)
	return nil
}

// path is the first name of inode i, for errors.
func (p *plan) path(i uint32) string {
	if i == 0 {
		return "/"
	}
	var names []string
	for ; i != 0; i = p.inodes[i].parent {
		names = append(names, p.entries[p.inodes[i].name].name)
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}

// join is the path of name in directory dir.
func (p *plan) join(dir uint32, name string) string {
	return strings.TrimSuffix(p.path(dir), "/") + "/" + name
}
