package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// maxOptions is the size in bytes from which on containerd shortens the
// options of an overlay mount: it mounts from the folder that all lower
// directories have in common (core/mount/mount_linux.go; the kernel takes one
// page, of which 512 bytes are kept in reserve).
const maxOptions = 4096 - 512

// lower is one directory below a snapshot.
type lower struct {
	id     string // of the snapshot it belongs to
	path   string
	remote bool // path is where fs.FS shows a layer, outside of the root
}

// Mounts returns the mounts of a view or active snapshot. It may block on the
// network if a layer of its chain is not mounted. Errors: ErrNotFound,
// ErrFailedPrecondition (a committed snapshot), ErrUnavailable.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var (
		snap storage.Snapshot
		info snapshots.Info
	)
	err := s.db.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		if snap, err = storage.GetSnapshot(ctx, key); err != nil {
			return fmt.Errorf("mounts of %q: %w", key, err)
		}
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	chain, err := s.chain(ctx, info.Parent)
	if err != nil {
		return nil, err
	}
	if err := s.ensure(ctx, chain); err != nil {
		return nil, err
	}
	lowers, err := s.lowers(chain, snap.ID)
	if err != nil {
		return nil, err
	}
	return s.mounts(snap, lowers)
}

// mounts builds the mount list: a bind mount for one directory, an overlay for
// more than one.
func (s *Snapshotter) mounts(snap storage.Snapshot, lowers []lower) ([]mount.Mount, error) {
	readonly := snap.Kind == snapshots.KindView
	lowers = topmost(lowers)
	switch {
	case len(lowers) == 0 && readonly:
		return bind(s.upper(snap.ID), "ro"), nil
	case len(lowers) == 0:
		return bind(s.upper(snap.ID), "rw"), nil
	case len(lowers) == 1 && readonly:
		return bind(lowers[0].path, "ro"), nil
	}
	var options []string
	if !readonly {
		options = append(options, "workdir="+s.work(snap.ID), "upperdir="+s.upper(snap.ID))
	}
	dirs, err := s.lowerdirs(lowers)
	if err != nil {
		return nil, err
	}
	options = append(options, "lowerdir="+strings.Join(dirs, ":"))
	options = append(options, s.overlay...)
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, nil
}

// topmost leaves out directories that stand further up as well: one image may
// have a layer twice (empty ones are all the same), and overlayfs refuses to.
// The upper one has all entries and whiteouts of the lower one.
func topmost(lowers []lower) []lower {
	seen := make(map[string]bool)
	return slices.DeleteFunc(slices.Clone(lowers), func(l lower) bool {
		again := seen[l.path]
		seen[l.path] = true
		return again
	})
}

func bind(source, mode string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: source, Options: []string{mode, "rbind"}}}
}

// lowerdirs returns the paths for the option lowerdir. A long list of lazy and
// local layers has no folder in common that containerd could shorten it by;
// then the lazy ones are named by a link beside the local ones.
func (s *Snapshotter) lowerdirs(lowers []lower) ([]string, error) {
	dirs, size, remote := make([]string, len(lowers)), 0, 0
	for i, l := range lowers {
		dirs[i] = l.path
		size += len(l.path) + 1
		if l.remote {
			remote++
		}
	}
	if remote == 0 || remote == len(lowers) || size+len(s.upper(""))*2 < maxOptions-512 {
		return dirs, nil
	}
	for i, l := range lowers {
		if !l.remote {
			continue
		}
		if err := s.link(l); err != nil {
			return nil, err
		}
		dirs[i] = s.upper(l.id)
	}
	return dirs, nil
}

// link makes, or corrects, the link from the place where a local snapshot has
// its files to the layer of a remote one. It is replaced whole: other callers
// may be mounting by it.
func (s *Snapshotter) link(l lower) error {
	name := s.upper(l.id)
	if to, err := os.Readlink(name); err == nil && to == l.path {
		return nil
	}
	if err := os.Mkdir(s.directory(l.id), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	dir, err := os.MkdirTemp(s.directory(l.id), "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Symlink(l.path, dir+"/fs"); err != nil {
		return err
	}
	return os.Rename(dir+"/fs", name)
}
