package toc

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

const (
	// MaxIndexSize is the most bytes of files in a layer that is indexed while it streams. Every one of them has to be decompressed
	// before the layer can be used, and zeros cost no disk.
	MaxIndexSize = 1 << 40
	// maxImplied is the most directories of a plain layer that no entry describes: they are looked for in the layers below.
	maxImplied = 4096

	xattrRecord = "SCHILY.xattr." // begins the PAX records of xattrs

	indexBuffer = 128 << 10

	// nodeMemory is how many bytes of memory a file takes from its entry in the tar until it is in the metadata image, besides its names.
	nodeMemory = 512
	// memoryStep is in how many bytes at a time Index asks for memory.
	memoryStep = 1 << 20
)

// ErrTar is in the errors of Index about a stream that is no tar, or a broken one.
var ErrTar = errors.New("malformed tar")

// indexer goes through a tar once.
type indexer struct {
	in     *tar.Reader
	data   io.WriterAt
	tree   *tree
	layout Layout
	buf    []byte
	memory func(bytes int64) error // nil if nobody wants to know
	made   int                     // nodes of the tree that were counted
	due    int64                   // bytes of memory that were not asked for yet
}

// Index reads the tar of a plain layer and lays it out as it comes: the contents of its files go to data, in ascending order, each
// from a 4 KiB boundary on. What it refuses is an *EntryError; ErrTar is in other errors about the tar, and data's errors
// are returned as they are, as those of memory, which is told how many more bytes the tree takes as it grows, a MiB or so at a time; it
// may be nil. Index does not read on behind the tar's end.
func Index(r io.Reader, data io.WriterAt, memory func(bytes int64) error) (*Layout, error) {
	x := &indexer{in: tar.NewReader(r), data: data, tree: newTree(), buf: make([]byte, indexBuffer), memory: memory}
	x.tree.implied = map[string]*metadata.Node{}
	for {
		h, err := x.in.Next()
		if errors.Is(err, io.EOF) {
			return x.finish()
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTar, err)
		}
		if err := x.add(h); err != nil {
			return nil, err
		}
		if err := x.count(h); err != nil {
			return nil, err
		}
	}
}

// count counts the memory that an entry takes in the tree. One may make many nodes: the directories that it lies in.
func (x *indexer) count(h *tar.Header) error {
	x.due += int64(x.tree.nodes-x.made)*nodeMemory + int64(len(h.Name)+len(h.Linkname))
	for record, value := range h.PAXRecords {
		x.due += int64(len(record) + len(value))
	}
	x.made = x.tree.nodes
	if x.memory == nil || x.due < memoryStep {
		return nil
	}
	due := x.due
	x.due = 0
	return x.memory(due)
}

func (x *indexer) finish() (*Layout, error) {
	if err := x.tree.finish(); err != nil {
		return nil, err
	}
	x.layout.Root = x.tree.root
	for _, name := range slices.Sorted(maps.Keys(x.tree.implied)) {
		if x.tree.lookup(name) == x.tree.implied[name] { // else something else has its name by now
			x.layout.Implied = append(x.layout.Implied, name)
		}
	}
	if n := len(x.layout.Implied); n > maxImplied {
		return nil, refuse(x.layout.Implied[0], fmt.Errorf("and %d other directories have no entries, at most %d are looked for", n-1, maxImplied))
	}
	return &x.layout, nil
}

func (x *indexer) add(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // git writes one; its records are meant for all entries, and no unpacker of layers takes notice
	}
	e, err := entryOf(h)
	if err != nil {
		return refuse(h.Name, err)
	}
	n, err := x.tree.add(e)
	if err != nil {
		return refuse(h.Name, err)
	}
	if n == nil || e.Type != "reg" {
		return nil
	}
	x.layout.Files++
	if e.Size > MaxIndexSize-x.layout.DataSize {
		return refuse(h.Name, fmt.Errorf("layer has more than %d bytes of files", int64(MaxIndexSize)))
	}
	n.Offset = x.layout.DataSize
	x.layout.DataSize += (e.Size + blockSize - 1) / blockSize * blockSize
	return x.copy(n.Offset, e.Size)
}

// copy brings the contents of an entry to their place.
func (x *indexer) copy(off, size int64) error {
	for end := off + size; off < end; {
		p := x.buf[:min(int64(len(x.buf)), end-off)]
		if _, err := io.ReadFull(x.in, p); err != nil {
			return fmt.Errorf("%w: %w", ErrTar, err)
		}
		if _, err := x.data.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// entryTypes are those that containerd unpacks. (It has no GNU sparse files either; those of PAX are plain files here.)
var entryTypes = map[byte]string{
	tar.TypeReg: "reg", tar.TypeDir: "dir", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink",
	tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo",
}

// entryOf is the entry that a TOC would have for a file of a tar.
func entryOf(h *tar.Header) (*estargz.TOCEntry, error) {
	typ, ok := entryTypes[h.Typeflag]
	if !ok {
		return nil, fmt.Errorf("unknown type %q", h.Typeflag)
	}
	if h.Devmajor != int64(int(h.Devmajor)) || h.Devminor != int64(int(h.Devminor)) {
		return nil, errors.New("device number out of range")
	}
	e := &estargz.TOCEntry{
		Name: strings.TrimLeft(h.Name, "/"), Type: typ, Size: h.Size, LinkName: h.Linkname, Mode: h.Mode, UID: h.Uid, GID: h.Gid,
		DevMajor: int(h.Devmajor), DevMinor: int(h.Devminor), ModTime3339: timeOf(h.ModTime),
	}
	if e.Name == "" {
		e.Name = "./" // "/" is the root
	}
	for record, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(record, xattrRecord); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string][]byte{}
			}
			e.Xattrs[name] = []byte(value)
		}
	}
	return e, nil
}

// timeOf writes a time as a TOC does, but with its fraction; "" for those that count as the epoch, see parseTime.
func timeOf(t time.Time) string {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
