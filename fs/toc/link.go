package toc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// capabilityXattr goes when a file changes its owner, which is what unpacking a hard link does before all else.
const capabilityXattr = "security.capability"

// pendingLink is a hard link to a name that has not come yet. No tar unpacks like that, but estargz allows it.
type pendingLink struct {
	dir    *metadata.Node
	base   string
	target string // clean name
	entry  *estargz.TOCEntry
	active bool // being resolved: met again, it is in a cycle
}

// addLink gives another name to an inode. The inode takes the attributes of the link's entry, as it does in unpacking.
func (t *tree) addLink(dir *metadata.Node, base, name string, e *estargz.TOCEntry) error {
	target, err := cleanName(strings.TrimLeft(e.LinkName, "/")) // some tars have them absolute; it means the layer's root
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", quote(e.LinkName), err)
	}
	if target == name {
		return errors.New("hard link to itself")
	}
	n := t.lookup(target)
	if n == nil {
		kept := *e
		return t.postpone(name, &pendingLink{dir: dir, base: base, target: target, entry: &kept})
	}
	if err := t.putLink(dir, base, n, e); err != nil {
		return err
	}
	if _, ok := e.Xattrs[capabilityXattr]; !ok {
		delete(n.Xattrs, capabilityXattr)
	}
	return t.merge(n, e)
}

func (t *tree) putLink(dir *metadata.Node, base string, n *metadata.Node, e *estargz.TOCEntry) error {
	if isDir(n) {
		return fmt.Errorf("hard link to %s, a directory", quote(e.LinkName))
	}
	return t.put(dir, base, n)
}

func (t *tree) postpone(name string, l *pendingLink) error {
	if t.pending[name] != nil {
		return errors.New("name stands there twice, for links to what comes later")
	}
	t.pending[name] = l
	t.order = append(t.order, name)
	return nil
}

// resolveLinks gives the pending links their inodes, following links to links.
func (t *tree) resolveLinks() error {
	for _, name := range t.order {
		if l := t.pending[name]; l != nil {
			if err := t.resolve(name, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// resolve places the link l and those that it leads to. Each link is walked once, however long the chains are.
func (t *tree) resolve(name string, l *pendingLink) error {
	var names []string
	var n *metadata.Node
	for {
		if l.active {
			return refuse(l.entry.Name, errors.New("hard links in a cycle"))
		}
		l.active = true
		names = append(names, name)
		if n = t.lookup(l.target); n != nil {
			break
		}
		name = l.target
		next := t.pending[name]
		if next == nil {
			return refuse(l.entry.Name, fmt.Errorf("hard link to %s, which is not there", quote(l.entry.LinkName)))
		}
		l = next
	}
	for _, name := range names {
		l := t.pending[name]
		if l.dir.Children[l.base] != nil {
			return refuse(l.entry.Name, errors.New("name stands there twice, for a hard link and for another file"))
		}
		if err := t.putLink(l.dir, l.base, n, l.entry); err != nil {
			return refuse(l.entry.Name, err)
		}
		if err := l.check(); err != nil {
			return refuse(l.entry.Name, err)
		}
		delete(t.pending, name)
	}
	return nil
}

// check looks at attributes that are not used: those of the target, which comes later, win.
func (l *pendingLink) check() error {
	return setAttributes(new(metadata.Node), l.entry)
}
