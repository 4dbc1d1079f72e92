package fs

import (
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// OpenDir lets the kernel cache what it lists, except for the root directory. There is no handle: cursors are positions
// in the metadata image. For trees ENOSYS says all that for good, and show and hide see to the root.
func (s *server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s.trees {
		return fuse.ENOSYS
	}
	if in.NodeId != rootNode {
		out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	}
	return fuse.OK
}

// ReadDir lists a directory, from the cursor in.Offset until out is full.
func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if in.NodeId == rootNode {
		s.readRoot(in.Offset, out.AddDirEntry)
		return fuse.OK
	}
	return s.with(in.NodeId, func(l *shown, nid uint64, tree bool) error {
		return l.readDir(nid, tree, in.Offset, func(d metadata.Dirent) (bool, error) {
			return out.AddDirEntry(l.dirEntry(d)), nil
		})
	})
}

// ReadDirPlus is ReadDir and Lookup of each entry.
func (s *server) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if in.NodeId == rootNode {
		// Without attributes, as these entries are not to be remembered.
		s.readRoot(in.Offset, func(e fuse.DirEntry) bool { return out.AddDirLookupEntry(e) != nil })
		return fuse.OK
	}
	return s.with(in.NodeId, func(l *shown, nid uint64, tree bool) error {
		return l.readDir(nid, tree, in.Offset, func(d metadata.Dirent) (bool, error) {
			entry := out.AddDirLookupEntry(l.dirEntry(d))
			if entry == nil {
				return false, nil
			}
			if d.Name == "." || d.Name == ".." {
				return true, nil // the kernel wants no attributes of these
			}
			return true, l.entry(d.NID, entry)
		})
	})
}

// readDir calls emit with the entries behind the cursor from, until it returns false or an error.
func (l *shown) readDir(nid uint64, tree bool, from uint64, emit func(metadata.Dirent) (bool, error)) error {
	if !tree {
		return unix.ENOTDIR
	}
	var failed error
	err := l.image.ReadDir(nid, from, func(d metadata.Dirent) bool {
		more, err := emit(d)
		failed = err
		return more && err == nil
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("read directory %d: %w", nid, err)
	}
	return nil
}

func (l *shown) dirEntry(d metadata.Dirent) fuse.DirEntry {
	return fuse.DirEntry{Name: d.Name, Ino: treeNode(l.id, d.NID), Mode: d.Type, Off: d.Next}
}
