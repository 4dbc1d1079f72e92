package fs

import (
	"math"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The root directory changes as layers come and go, so the kernel is told to ask again each time: walks pass it only
// when something is mounted.

// lookupRoot finds <ID> and <ID>.blob.
func (s *server) lookupRoot(name string, out *fuse.EntryOut) fuse.Status {
	id, blob, ok := parseName(name)
	if !ok {
		return fuse.ENOENT
	}
	l, ok := s.enter(id)
	if !ok {
		return fuse.ENOENT
	}
	defer l.users.Done()
	if !blob {
		err := l.entry(l.image.Root(), out)
		out.EntryValid = 0
		return l.status(err)
	}
	out.NodeId, out.AttrValid = blobNode(id), forever
	l.blobAttr(&out.Attr)
	return fuse.OK
}

// readRoot lists the layers. The cursor behind "." is 1, behind ".." 2, behind <ID>.blob 2*ID+1 and behind <ID> 2*ID+2,
// so that it stays good while layers come and go.
func (s *server) readRoot(from uint64, emit func(fuse.DirEntry) bool) {
	s.mu.RLock()
	ids := make([]uint32, 0, len(s.layers))
	for id := range s.layers {
		ids = append(ids, id)
	}
	s.mu.RUnlock()
	slices.Sort(ids)

	entries := []fuse.DirEntry{
		{Name: ".", Ino: rootNode, Mode: unix.S_IFDIR, Off: 1},
		{Name: "..", Ino: rootNode, Mode: unix.S_IFDIR, Off: 2},
	}
	for _, id := range ids {
		entries = append(entries,
			fuse.DirEntry{Name: blobName(id), Ino: blobNode(id), Mode: unix.S_IFREG, Off: 2*uint64(id) + 1},
			fuse.DirEntry{Name: treeName(id), Ino: treeNode(id, 0), Mode: unix.S_IFDIR, Off: 2*uint64(id) + 2})
	}
	for _, e := range entries {
		if e.Off > from && !emit(e) {
			return
		}
	}
}

// statRoot says nothing of sizes: df of the layers is df of the store.
func statRoot(out *fuse.StatfsOut) {
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: math.MaxUint8}
}
