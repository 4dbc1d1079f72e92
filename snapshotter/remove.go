package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs"
)

// discarded begins the names of directories that Cleanup is about to delete.
const discarded = "old-"

// Commit makes a committed snapshot of an active one. How much it holds is
// measured before the transaction, which would keep all others waiting.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	info, err := gather(opts)
	if err != nil {
		return err
	}
	var id string
	err = s.db.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		id, _, _, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("commit %q: %w", key, err)
	}
	usage, err := continuity.DiskUsage(ctx, s.upper(id))
	if err != nil {
		return fmt.Errorf("commit %q: %w", key, err)
	}
	err = s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CommitActive(ctx, key, name, snapshots.Usage(usage),
			snapshots.WithLabels(info.Labels), snapshots.WithParent(info.Parent))
		return err
	})
	if err != nil {
		return fmt.Errorf("commit %q: %w", key, err)
	}
	s.fs.Drop(id)
	return nil
}

// Remove takes a snapshot out of the database: its key is free at once. Its
// files stay until Cleanup. Errors: ErrNotFound, ErrFailedPrecondition (it is a
// parent).
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	var id string
	err := s.db.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		id, _, err = storage.Remove(ctx, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove %q: %w", key, err)
	}
	s.fs.Drop(id)
	return nil
}

// Cleanup deletes the directories of removed snapshots, and releases the
// layers that no snapshot shows any more. It goes on after an error.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	dirs, err := s.discardUnknown(ctx)
	if err != nil {
		err = fmt.Errorf("clean up snapshots: %w", err)
	}
	errs := []error{err}
	for _, dir := range dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	layers, err := s.disposable()
	return errors.Join(append(errs, err, s.releaseUnused(ctx, layers))...)
}

// aheadTime is how long a layer that was opened ahead of its turn may wait for
// the pull to come to it.
const aheadTime = 10 * time.Minute

// disposable lists the layers that may go if no snapshot shows them: those
// that are mounted, and what pulls that came to nothing left in the store.
func (s *Snapshotter) disposable() ([]digest.Digest, error) {
	var layers []digest.Digest
	for _, l := range s.fs.Status() {
		layers = append(layers, l.Digest)
	}
	stored, err := s.store.List()
	if err != nil {
		return layers, err
	}
	for _, d := range stored {
		if created, err := s.store.Created(d); err == nil && time.Since(created) > aheadTime {
			layers = append(layers, d)
		}
	}
	return layers, nil
}

// releaseUnused releases those of the layers that no snapshot shows.
func (s *Snapshotter) releaseUnused(ctx context.Context, layers []digest.Digest) error {
	used, err := s.layers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range layers {
		if _, ok := used[d]; !ok {
			errs = append(errs, s.release(ctx, d))
		}
	}
	return errors.Join(errs...)
}

// discardUnknown moves the directories that belong to no snapshot out of the
// way and returns where they are now, after an error too. Numbered directories
// are moved only inside of a write transaction, so nothing that is deleted after
// it can have become the directory of a new snapshot meanwhile.
func (s *Snapshotter) discardUnknown(ctx context.Context) (dirs []string, err error) {
	err = s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		known, err := storage.IDMap(ctx)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		entries, err := os.ReadDir(filepath.Join(s.root, "snapshots"))
		if err != nil {
			return err
		}
		var errs []error
		for _, e := range entries {
			if _, ok := known[e.Name()]; !ok {
				errs = append(errs, s.discard(e.Name()))
			}
		}
		dirs, err = filepath.Glob(filepath.Join(s.root, "snapshots", discarded+"*"))
		return errors.Join(append(errs, err)...)
	})
	return dirs, err
}

// discard gives the directory of a snapshot, if there is one, a name that
// Cleanup deletes. Where it cannot, it deletes the directory at once: a full
// disk, on which nothing can be made, is when deleting matters most. Needs a
// write transaction.
func (s *Snapshotter) discard(id string) error {
	dir := s.directory(id)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if matched, _ := filepath.Match(discarded+"*", id); matched {
		return nil
	}
	err := os.ErrExist
	for n := 1; errors.Is(err, os.ErrExist); n++ { // a number that is used again may have been discarded before
		err = os.Rename(dir, s.directory(fmt.Sprintf("%s%s-%d", discarded, id, n)))
	}
	if err != nil {
		return os.RemoveAll(dir)
	}
	return nil
}

// release unmounts a layer and removes its files, unless a snapshot shows it
// or is about to.
func (s *Snapshotter) release(ctx context.Context, d digest.Digest) error {
	done, ok := s.claims.seize(d)
	if !ok {
		return nil
	}
	defer done()
	used, err := s.layers(ctx)
	if err != nil {
		return err
	}
	if _, ok := used[d]; ok {
		return nil
	}
	if err := s.fs.Unmount(ctx, d); err != nil {
		return fmt.Errorf("release layer %s: %w", d, err)
	}
	return nil
}

// RemoveLayer removes a layer from the store that no container and no pull
// uses. Its snapshots stay, and have it fetched again when they are used.
// Errors: fs.ErrInUse, ErrNotExist of io/fs.
func (s *Snapshotter) RemoveLayer(ctx context.Context, d digest.Digest) error {
	return s.removeLayer(ctx, d, s.fs.Remove)
}

// PruneLayer is RemoveLayer but for what was pulled just now: see fs.FS.Prune.
func (s *Snapshotter) PruneLayer(ctx context.Context, d digest.Digest) error {
	return s.removeLayer(ctx, d, s.fs.Prune)
}

func (s *Snapshotter) removeLayer(ctx context.Context, d digest.Digest, remove func(context.Context, digest.Digest) (int64, error)) error {
	done, ok := s.claims.seize(d)
	if !ok {
		return fmt.Errorf("remove layer %s: %w", d, fs.ErrInUse)
	}
	defer done()
	_, err := remove(ctx, d)
	return err
}
