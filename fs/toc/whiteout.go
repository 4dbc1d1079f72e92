package toc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// Names by which a layer takes away what layers below have: OCI image specification, layer.md, "Whiteouts".
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh."
)

// whiteout waits for the end of the TOC: an entry of the same name wins, wherever it stands. (With containerd it does
// if it comes later, and fails the whole layer if it comes first, which a prefetch list can bring about.)
type whiteout struct {
	dir  *metadata.Node
	base string
	node *metadata.Node
	name string // of the entry
}

// isAUFS reports whether a clean name is of, or beneath, AUFS's own bookkeeping, which old tools left in layers.
func isAUFS(name string) bool {
	for c := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(c, aufsPrefix) && c != opaqueMarker {
			return true
		}
	}
	return false
}

// addWhiteout takes an entry whose name begins with .wh., of whatever type: containerd goes by the name too.
func (t *tree) addWhiteout(dir *metadata.Node, base string, e *estargz.TOCEntry) error {
	if base == opaqueMarker {
		if dir.Xattrs == nil {
			dir.Xattrs = map[string][]byte{}
		}
		dir.Xattrs[opaqueXattr] = []byte("y")
		return nil
	}
	hidden, n, err := newWhiteout(base, e)
	if err != nil {
		return err
	}
	t.whiteouts = append(t.whiteouts, whiteout{dir, hidden, n, e.Name})
	return nil
}

// newWhiteout makes the inode of an entry that takes a name away, and returns that name.
func newWhiteout(base string, e *estargz.TOCEntry) (hidden string, n *metadata.Node, err error) {
	hidden = base[len(whiteoutPrefix):]
	if hidden == "" || hidden == "." || hidden == ".." {
		return "", nil, errors.New("whiteout of nothing")
	}
	n = &metadata.Node{Mode: unix.S_IFCHR} // device 0:0, as overlayfs has it
	if err := setAttributes(n, e); err != nil {
		return "", nil, err
	}
	n.Mode, n.Xattrs = unix.S_IFCHR, nil // containerd sets only the owner
	return hidden, n, nil
}

func (t *tree) placeWhiteouts() error {
	for _, w := range t.whiteouts {
		if w.dir.Children[w.base] != nil {
			continue
		}
		if err := t.put(w.dir, w.base, w.node); err != nil {
			return refuse(w.name, fmt.Errorf("whiteout: %w", err))
		}
	}
	return nil
}
