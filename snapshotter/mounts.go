package snapshotter

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
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
	holder := s.visitor(key)
	defer s.fs.Drop(holder)
	if err := s.ensure(ctx, chain, holder); err != nil {
		return nil, err
	}
	s.bare(chain)
	lowers, err := s.lowers(chain, snap.ID)
	if err != nil {
		return nil, err
	}
	if err := s.stillActive(ctx, key, snap.ID); err != nil {
		s.fs.Drop(snap.ID) // which may have happened before lowers
		return nil, err
	}
	ids, err := idMapFor(info.Labels, lowers)
	if err != nil {
		return nil, fmt.Errorf("mounts of %q: %w", key, err)
	}
	return s.mounts(snap, lowers, ids)
}

// stillActive checks that nobody has removed or committed a snapshot.
func (s *Snapshotter) stillActive(ctx context.Context, key, id string) error {
	return s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		snap, err := storage.GetSnapshot(ctx, key)
		if err == nil && snap.ID != id {
			err = fmt.Errorf("it is another one now: %w", errdefs.ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("mounts of %q: %w", key, err)
		}
		return nil
	})
}

// mounts builds the mount list: a bind mount for one directory, an overlay for
// more than one. ids is nil if they are to be as they are.
func (s *Snapshotter) mounts(snap storage.Snapshot, lowers []lower, ids *idMap) ([]mount.Mount, error) {
	readonly := snap.Kind == snapshots.KindView
	lowers = s.stack(snap, lowers, ids)
	switch {
	case len(lowers) == 0 && readonly:
		return bind(s.upper(snap.ID), "ro"), nil
	case len(lowers) == 0: // the directory has the owner that it is to have
		return bind(s.upper(snap.ID), "rw"), nil
	case len(lowers) == 1 && readonly:
		return bind(lowers[0].path, "ro"), nil
	}
	var options []string
	if ids != nil {
		options = append(options, ids.options()...)
	}
	if !readonly {
		upper, err := s.upperOptions(snap.ID)
		if err != nil {
			return nil, err
		}
		options = append(options, upper...)
	}
	dirs, err := s.lowerdirs(lowers, ids != nil)
	if err != nil {
		return nil, err
	}
	options = append(options, "lowerdir="+strings.Join(dirs, ":"))
	options = append(options, s.overlay...)
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, nil
}

// stack returns the lower directories of a snapshot's mount.
func (s *Snapshotter) stack(snap storage.Snapshot, lowers []lower, ids *idMap) []lower {
	lowers = topmost(lowers)
	if len(lowers) == 1 && snap.Kind == snapshots.KindView && ids != nil {
		// containerd does not map a read-only bind mount, and overlayfs wants
		// two directories: the view's own is empty.
		lowers = append(lowers, lower{id: snap.ID, path: s.upper(snap.ID)})
	}
	return lowers
}

// upperOptions make an overlay writable.
func (s *Snapshotter) upperOptions(id string) ([]string, error) {
	options := []string{"workdir=" + s.work(id), "upperdir=" + s.upper(id)}
	if err := s.endVolatile(id); err != nil {
		return nil, fmt.Errorf("mounts of snapshot %s: %w", id, err)
	}
	if !s.volatile {
		return options, nil
	}
	return append(options, "volatile"), s.beginVolatile(id)
}

func bind(source, mode string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: source, Options: []string{mode, "rbind"}}}
}

// lowerdirs returns the paths for the option lowerdir. Lazy and local layers
// have no folder in common; if containerd needs one, because the list is long
// or the ids are to be mapped, the local ones are named by where they are seen
// beside the lazy ones.
func (s *Snapshotter) lowerdirs(lowers []lower, mapped bool) ([]string, error) {
	dirs, size, remote := make([]string, len(lowers)), 0, 0
	for i, l := range lowers {
		dirs[i] = l.path
		size += len(l.path) + 1
		if l.remote {
			remote++
		}
	}
	short := size+len(s.upper(""))*2 < maxOptions-512
	if remote == 0 || remote == len(lowers) || short && !mapped {
		return dirs, nil
	}
	if err := s.beside.mount(); err != nil {
		return nil, fmt.Errorf("show local layers beside lazy ones: %w", err)
	}
	for i, l := range lowers {
		if !l.remote {
			dirs[i] = s.beside.path(l.id)
		}
	}
	return dirs, nil
}
