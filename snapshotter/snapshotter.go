// Package snapshotter is Sluice as containerd sees it: containerd's
// [snapshots.Snapshotter] and [snapshots.Cleaner] over lazily mounted layers.
//
// Words, as containerd has them: an active snapshot is addressed by its key, a
// committed one by its name, and a parent is the name of a committed one. A
// snapshot is either
//
//   - local: a directory that something was unpacked or written into, as with
//     containerd's overlayfs, or
//   - remote: a committed snapshot whose files are a layer that [fs.FS] shows,
//     be it lazy or plain. It has no directory of its own, only labels that say
//     which layer it is.
//
// A chain may mix both in any order. A snapshot becomes remote in Prepare, when
// containerd offers a layer by the label containerd.io/snapshot.ref: the layer
// is mounted, committed under the name in that label, and the answer is
// [errdefs.ErrAlreadyExists], which makes containerd skip the download. A layer
// that cannot be taken gets ordinary mounts, and containerd unpacks it.
//
// Several snapshots may show one layer (two namespaces, or two images that
// share it). The layer is mounted once, and released by Cleanup when the last
// snapshot of it is gone.
//
// All methods may be called at once from any number of goroutines. Removing is
// deferred: Remove takes a snapshot out of the database, and Cleanup, which
// containerd calls after each garbage collection, deletes directories and
// releases layers.
package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs"
)

// lockTimeout is how long New waits for another process to let go of the
// database: as long as a daemon that is being replaced may need for its last
// transaction.
const lockTimeout = 2 * time.Second

// ErrLocked says that another process has the database of the root open.
var ErrLocked = errors.New("in use by another process")

// Options configures New.
type Options struct {
	// Root is the directory of the database and of the local snapshots. It is
	// made if it is missing, and has to be on a file system that overlayfs
	// accepts as an upper layer.
	Root string
	// FS mounts layers. Its owner closes it, after the Snapshotter.
	FS *fs.FS
	// Store is the one that FS keeps layers in. New removes those that no
	// snapshot shows.
	Store *cache.Store
	// Volatile makes overlayfs not sync what containers write: what they wrote
	// may be lost, or be there in part, when the host crashes.
	Volatile bool
}

// Snapshotter implements snapshots.Snapshotter and snapshots.Cleaner.
type Snapshotter struct {
	root     string
	fs       *fs.FS
	store    *cache.Store
	db       *storage.MetaStore
	claims   *claims
	visits   atomic.Uint64 // see visitor
	beside   *beside
	overlay  []string // mount options of every overlay
	volatile bool
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// New opens the snapshots of o.Root and mounts the layers that they refer to
// again, without the network. A layer that cannot be mounted so is logged, and
// tried again when a snapshot on it is used. Errors: ErrLocked, ErrNewerFormat.
func New(ctx context.Context, o Options) (*Snapshotter, error) {
	s, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", o.Root, err)
	}
	if err := s.restore(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("restore snapshots in %s: %w", o.Root, err), s.Close())
	}
	return s, nil
}

// open makes what is missing of the root and opens the database.
func open(o Options) (*Snapshotter, error) {
	if err := os.MkdirAll(filepath.Join(o.Root, "snapshots"), 0o700); err != nil {
		return nil, err
	}
	if err := checkFormat(o.Root); err != nil {
		return nil, err
	}
	dtype, err := continuity.SupportsDType(o.Root)
	if err != nil {
		return nil, err
	}
	if !dtype {
		return nil, errors.New("the file system does not report file types in directories, which overlayfs needs (xfs: format with ftype=1)")
	}
	options, err := overlayOptions(o)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(filepath.Join(o.Root, "metadata.db"))
	if err != nil {
		return nil, err
	}
	return &Snapshotter{
		root: o.Root, fs: o.FS, store: o.Store, db: db, claims: newClaims(),
		beside:  newBeside(filepath.Join(o.Root, "snapshots"), o.FS.MountDir()),
		overlay: options, volatile: o.Volatile,
	}, nil
}

// openDatabase opens the database now, where MetaStore would do it with its
// first transaction and then wait forever for another process's lock.
func openDatabase(path string) (*storage.MetaStore, error) {
	db, err := storage.NewMetaStore(path, func(o *bolt.Options) error {
		o.Timeout = lockTimeout
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = db.WithTransaction(context.Background(), false, func(context.Context) error { return nil })
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, ErrLocked
	}
	return db, err
}

// Stat returns what is recorded of an active or committed snapshot.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update changes labels. Those that make a snapshot a remote one stay as they
// are, whatever the caller says: they are not containerd's to know, and
// without them the snapshot would be an empty directory.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	err = s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, old, _, err := storage.GetInfo(ctx, info.Name)
		if err != nil {
			return err
		}
		info.Labels = keepRemoteLabels(old, info.Labels)
		updated, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return updated, err
}

// Usage measures the directory of an active snapshot, which takes time in
// proportion to its files. For a remote one it is what the layer takes on disk
// now, for other committed ones what was measured when they were committed.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	var (
		snap  snapshot
		usage snapshots.Usage
	)
	err := s.db.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		snap.id, snap.info, usage, err = storage.GetInfo(ctx, key)
		return err
	})
	switch {
	case err != nil:
		return snapshots.Usage{}, err
	case snap.info.Kind == snapshots.KindActive:
		du, err := continuity.DiskUsage(ctx, s.upper(snap.id))
		return snapshots.Usage(du), err
	case !snap.remote():
		return usage, nil
	}
	if bytes, inodes, err := s.fs.Usage(snap.source().Digest); err == nil {
		return snapshots.Usage{Size: bytes, Inodes: inodes}, nil
	}
	return usage, nil // not mounted now: what is recorded, which is nothing
}

// Walk calls fn for each snapshot that matches the filters. The list is that
// of the moment of the call; fn may call any method.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	var infos []snapshots.Info
	err := s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		if _, err := storage.IDMap(ctx); errdefs.IsNotFound(err) {
			return nil // nothing was ever created
		}
		return storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			infos = append(infos, info)
			return nil
		}, filters...)
	})
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the database. Mounts of layers stay: containers are running on
// them.
func (s *Snapshotter) Close() error { return errors.Join(s.db.Close(), s.beside.close()) }
