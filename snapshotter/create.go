package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs"
)

// Prepare makes an active snapshot and returns its mounts, or, if the labels
// offer a layer that [fs.FS] takes, makes the committed snapshot that containerd
// wants in the end, and returns an error that is ErrAlreadyExists.
//
// It blocks on the network when a layer is offered, until all of it is there if
// it is a plain one, and for a container's snapshot, at most
// fs.Options.PrefetchTimeout, until the prefetch lists of its layers are on
// disk. Errors: ErrNotFound (parent), ErrAlreadyExists (key, or the layer was
// taken), ErrUnavailable (a layer of the chain cannot be mounted),
// ErrResourceExhausted (there is no room for the layer), ErrFailedPrecondition
// (the layer is not what its image claims, which is not trusted).
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, err := gather(opts)
	if err != nil {
		return nil, err
	}
	target := info.Labels[snapshots.LabelSnapshotRef]
	if target == "" {
		return s.create(ctx, creation{kind: snapshots.KindActive, key: key, parent: parent, info: info, wait: true})
	}
	err = s.prepareRemote(ctx, target, parent, info.Labels)
	switch {
	case err == nil:
		return nil, fmt.Errorf("prepare %q: target %q: %w", key, target, errdefs.ErrAlreadyExists)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("prepare %q: target %q: %w", key, target, err)
	case errors.Is(err, cache.ErrFull): // unpacked, it would take as much of the same disk
		return nil, fmt.Errorf("prepare %q: %w: %w; what containers use is not removed: raise limit and limit_percent of [cache], or remove containers and images",
			key, errdefs.ErrResourceExhausted, err)
	case cache.IsOutOfSpace(err):
		return nil, fmt.Errorf("prepare %q: %w: %w; the disk is full, also after layers that no container uses were removed: make room on it, or remove containers and images",
			key, errdefs.ErrResourceExhausted, err)
	case errors.Is(err, fs.ErrUntrusted):
		return nil, fmt.Errorf("prepare %q: target %q: %w: %w", key, target, errdefs.ErrFailedPrecondition, err)
	}
	logFallback(ctx, target, info.Labels, err)
	return s.create(ctx, creation{kind: snapshots.KindActive, key: key, parent: parent, info: info})
}

// View is Prepare for reading only.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, err := gather(opts)
	if err != nil {
		return nil, err
	}
	return s.create(ctx, creation{kind: snapshots.KindView, key: key, parent: parent, info: info})
}

// gather applies the options, and drops labels that are not the caller's to
// set.
func gather(opts []snapshots.Opt) (snapshots.Info, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return snapshots.Info{}, err
		}
	}
	info.Labels = withoutOurs(info.Labels)
	return info, nil
}

// logFallback says why containerd has to unpack a layer itself.
func logFallback(ctx context.Context, target string, labels map[string]string, err error) {
	src, _ := offeredSource(labels)
	l := log.G(ctx).WithError(err).WithField("image", src.Ref).WithField("layer", src.Digest).WithField("snapshot", target)
	switch {
	case errors.Is(err, fs.ErrNotLazy):
		l.Debug("layer is not one to take, containerd unpacks it")
	case errors.Is(err, errNoSource):
		l.Info("layer without a source, containerd unpacks it")
	default:
		l.Warn("layer cannot be mounted, containerd unpacks it")
	}
}

// creation is a view or active snapshot to be made.
type creation struct {
	kind        snapshots.Kind
	key, parent string
	info        snapshots.Info
	wait        bool // for the prefetch lists of the chain
}

// create makes the record and the directory of a snapshot. The chain is
// mounted first: once the key exists, nothing may fail any more that the
// caller could try again.
func (s *Snapshotter) create(ctx context.Context, c creation) ([]mount.Mount, error) {
	chain, err := s.chain(ctx, c.parent)
	if err != nil {
		return nil, err
	}
	holder := s.visitor(c.key)
	defer s.fs.Drop(holder)
	if err := s.ensure(ctx, chain, holder); err != nil {
		return nil, err
	}
	if c.wait {
		s.awaitPrefetch(ctx, chain)
	}
	s.bare(chain)
	var mounts []mount.Mount
	err = s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		snap, err := storage.CreateSnapshot(ctx, c.kind, c.key, c.parent, snapshots.WithLabels(c.info.Labels))
		if err != nil {
			return fmt.Errorf("create snapshot %q: %w", c.key, err)
		}
		if mounts, err = s.furnish(snap, chain, c.info.Labels); err != nil {
			s.fs.Drop(snap.ID) // here: after the transaction, the number may be another one's
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return mounts, nil
}

// furnish makes the directory of a new snapshot, and returns its mounts.
func (s *Snapshotter) furnish(snap storage.Snapshot, chain []snapshot, labels map[string]string) ([]mount.Mount, error) {
	lowers, err := s.lowers(chain, snap.ID)
	if err != nil {
		return nil, err
	}
	ids, err := idMapFor(labels, lowers)
	if err != nil {
		return nil, err
	}
	if err := s.tryIDs(snap, lowers, ids); err != nil {
		return nil, err
	}
	if err := s.makeDirectory(snap, lowers, ids); err != nil {
		return nil, err
	}
	return s.mounts(snap, lowers, ids)
}

// tryIDs checks that containerd will be able to map the ids of what mounts
// returns, if ids says that it is to.
func (s *Snapshotter) tryIDs(snap storage.Snapshot, lowers []lower, ids *idMap) error {
	if ids == nil || len(lowers) == 0 {
		return nil
	}
	dirs, err := s.lowerdirs(s.stack(snap, lowers, ids), true)
	if err != nil {
		return err
	}
	return ids.try(dirs)
}

// awaitPrefetch waits for the files that a container is known to read first.
// It is no error if they do not come in time: they are fetched when read.
func (s *Snapshotter) awaitPrefetch(ctx context.Context, chain []snapshot) {
	var layers []digest.Digest
	for _, snap := range chain {
		if snap.remote() {
			layers = append(layers, snap.source().Digest)
		}
	}
	if len(layers) == 0 {
		return
	}
	if err := s.fs.Wait(ctx, layers); err != nil {
		log.G(ctx).WithError(err).WithField("image", chain[0].info.Labels[referenceLabel]).
			Info("container starts before its prefetch list is on disk")
	}
}

// makeDirectory makes the directory of a snapshot inside of the transaction
// that creates it. Numbers are only used again after a transaction that did
// not come to its end; what such a one left behind is moved out of the way,
// for Cleanup to delete.
func (s *Snapshotter) makeDirectory(snap storage.Snapshot, lowers []lower, ids *idMap) error {
	dir := s.directory(snap.ID)
	if err := s.discard(snap.ID); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	upper := s.upper(snap.ID)
	if err := os.Mkdir(upper, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(upper, 0o755); err != nil { // it is a container's /, whatever umask the daemon has
		return err
	}
	if snap.Kind == snapshots.KindActive {
		if err := os.Mkdir(s.work(snap.ID), 0o711); err != nil {
			return err
		}
	}
	return giveOwner(upper, lowers, ids)
}

// giveOwner gives upper the owner of the directory that it will cover, as the
// container sees it. Without one it belongs to root.
func giveOwner(upper string, lowers []lower, ids *idMap) (err error) {
	var uid, gid uint32
	if len(lowers) > 0 {
		if uid, gid, err = ownerOf(lowers[0].path); err != nil {
			return err
		}
	}
	if ids != nil {
		uid, gid = ids.owner(uid, gid)
	}
	return os.Lchown(upper, int(uid), int(gid))
}

func ownerOf(dir string) (uid, gid uint32, err error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("stat %s: %w", dir, err)
	}
	return st.Uid, st.Gid, nil
}

func (s *Snapshotter) directory(id string) string { return filepath.Join(s.root, "snapshots", id) }
func (s *Snapshotter) upper(id string) string     { return filepath.Join(s.directory(id), "fs") }
func (s *Snapshotter) work(id string) string      { return filepath.Join(s.directory(id), "work") }
