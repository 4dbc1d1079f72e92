package snapshotter

import (
	"cmp"
	"context"
	"errors"
	iofs "io/fs"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
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
	for _, sources := range layers {
		g.Go(func() error {
			for _, src := range sources {
				if err := s.remount(ctx, src); err != nil {
					logMissing(ctx, src, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.holdAgain(ctx); err != nil {
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

// logMissing says that a layer is not mounted. One that is not there was removed for want of room, as a rule.
func logMissing(ctx context.Context, src fs.Source, err error) {
	l := log.G(ctx).WithError(err).WithField("image", src.Ref).WithField("layer", src.Digest)
	const what = "layer is not mounted again; it will be when a container needs it"
	if errors.Is(err, iofs.ErrNotExist) {
		l.Info(what)
	} else {
		l.Warn(what)
	}
}

// holdAgain gives containers from before the start what they have: nothing of that is removed to make room.
func (s *Snapshotter) holdAgain(ctx context.Context) error {
	var active []snapshots.Info
	err := s.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			active = append(active, info)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, info := range active {
		if err := s.holdFor(ctx, info); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// holdFor does that for one snapshot. Layers that are not mounted have nothing to be kept.
func (s *Snapshotter) holdFor(ctx context.Context, info snapshots.Info) error {
	chain, err := s.chain(ctx, info.Parent)
	if err != nil {
		return err
	}
	var id string
	err = s.db.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		id, _, _, err = storage.GetInfo(ctx, info.Name)
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range digests(chain) {
		if d == "" || !s.fs.Mounted(d) {
			continue
		}
		if _, err := s.fs.Path(d, id); err != nil {
			log.G(ctx).WithError(err).WithField("snapshot", info.Name).WithField("layer", d).Warn("a layer of a container is not held")
		}
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
	return errors.Join(s.fs.MountAgain(ctx, src), l.Close())
}

// layers lists the layers of all remote snapshots, with what each image says
// of them, in the order in which they came: most are in one image, or mean the
// same in all.
func (s *Snapshotter) layers(ctx context.Context) (map[digest.Digest][]fs.Source, error) {
	infos, names, err := s.oldestFirst(ctx)
	if err != nil {
		return nil, err
	}
	layers := make(map[digest.Digest][]fs.Source)
	for _, name := range names {
		snap := snapshot{info: infos[name]}
		if !snap.remote() {
			continue
		}
		var parent *snapshots.Info
		if p, ok := infos[snap.info.Parent]; ok {
			parent = &p
		}
		src := snap.on(parent).source()
		if !slices.Contains(layers[src.Digest], src) {
			layers[src.Digest] = append(layers[src.Digest], src)
		}
	}
	return layers, nil
}

// oldestFirst returns all snapshots by name, and the names in the order in which
// the snapshots were made. Their numbers tell it: a clock may be set back.
func (s *Snapshotter) oldestFirst(ctx context.Context) (infos map[string]snapshots.Info, names []string, err error) {
	infos = make(map[string]snapshots.Info)
	var ids map[string]string
	err = s.db.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		if ids, err = storage.IDMap(ctx); errdefs.IsNotFound(err) {
			return nil // nothing was ever created
		}
		if err != nil {
			return err
		}
		return storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			infos[info.Name] = info
			return nil
		})
	})
	for _, id := range slices.SortedFunc(maps.Keys(ids), compareNumbers) {
		names = append(names, ids[id])
	}
	return infos, names, err
}

// compareNumbers compares numbers of snapshots, which are decimal.
func compareNumbers(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}
