package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	continuity "github.com/containerd/continuity/fs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// errImplied says that a layer would look different unpacked.
var errImplied = errors.New("has files in a directory that it does not describe, and that is special in the layers below")

// checkImplied looks at the directories that a plain layer has files in and says nothing of. Unpacking gives them the attributes that
// they have in the layers below (containerd, pkg/archive/tar.go, mkparent); a layer of ours is the same above whatever
// layers, with the attributes that such directories have otherwise. So it is taken only where those are the same, but for times.
func (s *Snapshotter) checkImplied(ctx context.Context, target, parent string, layer digest.Digest) error {
	dirs := s.fs.Implied(layer)
	if len(dirs) == 0 || parent == "" {
		return nil
	}
	chain, err := s.chain(ctx, parent)
	if err != nil {
		return err
	}
	holder := s.visitor(target)
	defer s.fs.Drop(holder)
	if err := s.ensure(ctx, chain, holder); err != nil {
		return err
	}
	lowers, err := s.lowers(chain, holder)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := checkBelow(lowers, dir); err != nil {
			return fmt.Errorf("layer %s %w: %q", layer, err, dir)
		}
	}
	return nil
}

// visitor is a name for one call to hold layers by. Another call for the same snapshot, at the same time, must not drop what this one holds.
func (s *Snapshotter) visitor(name string) string {
	return fmt.Sprintf("%s, visit %d", name, s.visits.Add(1))
}

// checkBelow looks at a directory in the topmost layer that has it.
func checkBelow(lowers []lower, dir string) error {
	for _, l := range lowers {
		path, err := continuity.RootPath(l.path, dir)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("lstat %s: %w", path, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR && (st.Mode&^unix.S_IFMT != 0o755 || st.Uid != 0 || st.Gid != 0 || hasXattrs(path)) {
			return errImplied
		}
		return nil
	}
	return nil
}

// hasXattrs says whether unpacking would copy xattrs of a directory. Where they cannot be listed, there are none. Those that overlayfs
// itself leaves on local snapshots are not the layer's.
func hasXattrs(path string) bool {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		return !errors.Is(err, unix.ENOTSUP)
	}
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if name != "" && name != "security.selinux" && !strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, "user.overlay.") {
			return true
		}
	}
	return false
}
