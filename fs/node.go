package fs

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// Node numbers, which are inode numbers too, say what a node is, whoever asks and whenever:
//
//	1                  the root directory
//	ID<<32             <ID>.blob
//	ID<<32 | nid+1     inode nid of the tree of layer ID
//
// IDs begin at 1 and are never given twice, so what the kernel remembers of a node stays true.
const (
	rootNode = fuse.FUSE_ROOT_ID

	forever = math.MaxInt32 // seconds that the kernel may believe what it is told of a layer
	blobExt = ".blob"
)

func blobNode(id uint32) uint64             { return uint64(id) << 32 }
func treeNode(id uint32, nid uint64) uint64 { return uint64(id)<<32 | (nid + 1) }

// splitNode returns the layer of a node, and its inode if it is one of the tree.
func splitNode(node uint64) (id uint32, nid uint64, tree bool) {
	id, low := uint32(node>>32), uint64(uint32(node))
	return id, low - 1, low != 0
}

func blobName(id uint32) string { return treeName(id) + blobExt }
func treeName(id uint32) string { return strconv.FormatUint(uint64(id), 10) }

// parseName is the inverse of blobName and treeName.
func parseName(name string) (id uint32, blob, ok bool) {
	digits, blob := strings.CutSuffix(name, blobExt)
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 0 || treeName(uint32(n)) != digits {
		return 0, false, false
	}
	return uint32(n), blob, true
}

func rootAttr(a *fuse.Attr) {
	*a = fuse.Attr{Ino: rootNode, Mode: unix.S_IFDIR | 0o700, Nlink: 2, Blksize: 4096}
}

func (l *shown) blobAttr(a *fuse.Attr) {
	*a = fuse.Attr{Ino: blobNode(l.id), Mode: unix.S_IFREG | 0o400, Nlink: 1, Blksize: 4096}
	setSize(a, l.dataSize)
}

func (l *shown) treeAttr(nid uint64, in metadata.Inode, a *fuse.Attr) {
	*a = fuse.Attr{
		Ino:     treeNode(l.id, nid),
		Mode:    in.Mode,
		Nlink:   in.Nlink,
		Owner:   fuse.Owner{Uid: in.UID, Gid: in.GID},
		Rdev:    uint32(in.Rdev), // the same encoding, for the majors and minors that an image can hold
		Blksize: 4096,
	}
	setSize(a, in.Size)
	a.SetTimes(&in.Mtime, &in.Mtime, &in.Mtime)
}

func setSize(a *fuse.Attr, size int64) {
	a.Size = uint64(size)
	a.Blocks = (a.Size + 511) / 512
}

// attr fills in the attributes of a node of this layer.
func (l *shown) attr(nid uint64, tree bool, a *fuse.Attr) error {
	if !tree {
		l.blobAttr(a)
		return nil
	}
	in, err := l.image.Inode(nid)
	if err != nil {
		return fmt.Errorf("inode %d: %w", nid, err)
	}
	l.treeAttr(nid, in, a)
	return nil
}

// entry fills in what the kernel is told of inode nid when it looks it up.
func (l *shown) entry(nid uint64, out *fuse.EntryOut) error {
	in, err := l.image.Inode(nid)
	if err != nil {
		return fmt.Errorf("inode %d: %w", nid, err)
	}
	out.NodeId = treeNode(l.id, nid)
	out.EntryValid, out.AttrValid = forever, forever
	l.treeAttr(nid, in, &out.Attr)
	return nil
}
