package snapshotter

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-snapshotter/sluice/fs"
)

// restoreLimit is how many layers are mounted at once after a start.
const restoreLimit = 8

// restore mounts the layers of all remote snapshots whose files are on disk. A
// layer that cannot be mounted costs the containers on it, not the others:
// it is logged, and Mounts tries again.
func (s *Snapshotter) restore(ctx context.Context) error {
	layers, err := s.layers(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(restoreLimit)
	for _, src := range layers {
		g.Go(func() error {
			if err := s.remount(ctx, src); err != nil {
				log.G(ctx).WithError(err).WithField("image", src.Ref).WithField("layer", src.Digest).
					Warn("layer is not mounted again; it will be when a container needs it")
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// What the store has beyond that was opened ahead of its turn, or mounted
	// by a process that did not live to commit it.
	stored, err := s.store.List()
	if err != nil {
		return err
	}
	if err := s.releaseUnused(ctx, stored); err != nil {
		log.G(ctx).WithError(err).Warn("layers that no snapshot shows are still there")
	}
	return nil
}

// remount mounts a layer that the store has. It looks there first, and keeps
// the layer open meanwhile, because FS would go to the network for it.
func (s *Snapshotter) remount(ctx context.Context, src fs.Source) error {
	l, err := s.store.Get(src.Digest)
	if err != nil {
		return err
	}
	return errors.Join(s.fs.Mount(ctx, src), l.Close())
}

// layers lists the layer of each remote snapshot, every layer once.
func (s *Snapshotter) layers(ctx context.Context) (map[digest.Digest]fs.Source, error) {
	layers := make(map[digest.Digest]fs.Source)
	err := s.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if snap := (snapshot{info: info}); snap.remote() {
			src := snap.source()
			layers[src.Digest] = src
		}
		return nil
	})
	return layers, err
}
