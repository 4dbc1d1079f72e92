package snapshotter

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs"
)

// snapshot is one record of the database.
type snapshot struct {
	id   string // names the directory of a local one
	info snapshots.Info
	// The chain IDs of the snapshot and of its parent, if they are known: what its layer has to be.
	chain, below digest.Digest
	// The layer of a remote one does without xattrs where it is in a chain: see bare.
	bare bool
}

// chainOf is what containerd calls a committed snapshot: its own names are others, as are those of targets that are taken. known
// is false if it is no chain ID.
func chainOf(info snapshots.Info) (id digest.Digest, known bool) {
	d, err := digest.Parse(info.Labels[snapshots.LabelSnapshotRef])
	return d, err == nil && info.Kind == snapshots.KindCommitted
}

// on adds the snapshot's claim: parent is nil if it has none.
func (s snapshot) on(parent *snapshots.Info) snapshot {
	chain, known := chainOf(s.info)
	var below digest.Digest
	if parent != nil && known {
		below, known = chainOf(*parent)
	}
	if known {
		s.chain, s.below = chain, below
	}
	return s
}

// remote says whether the snapshot shows a layer of fs.FS.
func (s snapshot) remote() bool {
	return s.info.Kind == snapshots.KindCommitted && s.info.Labels[digestLabel] != ""
}

// source is the layer of a remote snapshot. The labels are our own, so what
// cannot be parsed was damaged, and the layer is not found by it later.
func (s snapshot) source() fs.Source {
	src, err := recordedSource(s.info.Labels)
	if err != nil {
		return fs.Source{Ref: s.info.Labels[referenceLabel]}
	}
	src.Chain, src.Below, src.Held = s.chain, s.below, true
	return src
}

// chain lists the snapshots from name down to the one without a parent. An
// empty name gives an empty chain.
func (s *Snapshotter) chain(ctx context.Context, name string) (chain []snapshot, err error) {
	err = s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		for name != "" {
			id, info, _, err := storage.GetInfo(ctx, name)
			if err != nil {
				return fmt.Errorf("snapshot %q: %w", name, err)
			}
			if info.Kind != snapshots.KindCommitted {
				return fmt.Errorf("parent %q is not committed: %w", name, errdefs.ErrInvalidArgument)
			}
			chain = append(chain, snapshot{id: id, info: info})
			name = info.Parent
		}
		return nil
	})
	for i, snap := range chain {
		var parent *snapshots.Info
		if i+1 < len(chain) {
			parent = &chain[i+1].info
		}
		chain[i] = snap.on(parent)
	}
	return chain, err
}

// ensure mounts the layers of a chain that are not mounted, because a restart
// could not.
//
// Each stays mounted for holder, until fs.FS.Drop: mounting the next may take
// long, and make room for itself.
func (s *Snapshotter) ensure(ctx context.Context, chain []snapshot, holder string) error {
	for _, snap := range chain {
		if !snap.remote() {
			continue
		}
		if err := s.hold(ctx, snap.source(), holder); err != nil {
			return unavailable(snap, err)
		}
	}
	return nil
}

// hold mounts a layer that is not mounted, and keeps it so.
func (s *Snapshotter) hold(ctx context.Context, src fs.Source, holder string) error {
	for {
		if err := s.ensureLayer(ctx, src); err != nil {
			return err
		}
		_, err := s.fs.Path(src.Digest, holder)
		if !errors.Is(err, iofs.ErrNotExist) || ctx.Err() != nil {
			return err
		} // it was just removed to make room
	}
}

func (s *Snapshotter) ensureLayer(ctx context.Context, src fs.Source) error {
	mounted, err := s.fs.Source(src.Digest)
	if err != nil {
		return s.mount(ctx, src)
	}
	if mounted.TOCDigest != src.TOCDigest || mounted.DiffID != src.DiffID { // as another image has it: Mount finds out whether that is the same
		return s.mount(ctx, src)
	}
	if err := s.fs.Contradicted(src); err != nil || !s.fs.ProofFirst(src) {
		return err
	}
	return s.mount(ctx, src)
}

// bare finds out which layers of a chain do without xattrs. They are mounted. It may look at all files of a layer, which takes too long for
// a transaction of the database.
func (s *Snapshotter) bare(chain []snapshot) {
	layers := digests(chain)
	for i, layer := range layers {
		chain[i].bare = layer != "" && s.fs.Bare(layer, layers[i+1:])
	}
}

// digests are those of the layers of a chain, "" for a local one.
func digests(chain []snapshot) []digest.Digest {
	layers := make([]digest.Digest, len(chain))
	for i, snap := range chain {
		if snap.remote() {
			layers[i] = snap.source().Digest
		}
	}
	return layers
}

// lowers returns the directory of each snapshot of a chain, topmost first. The
// layers are mounted; their directories stay for the snapshot with number id.
func (s *Snapshotter) lowers(chain []snapshot, id string) ([]lower, error) {
	lowers := make([]lower, len(chain))
	paths := make(map[digest.Digest]string) // one for a layer that is there twice
	for i, snap := range chain {
		lowers[i] = lower{id: snap.id, path: s.upper(snap.id)}
		if !snap.remote() {
			continue
		}
		layer := snap.source().Digest
		if paths[layer] == "" {
			show := s.fs.Path
			if snap.bare {
				show = s.fs.BarePath
			}
			path, err := show(layer, id)
			if err != nil {
				return nil, unavailable(snap, err)
			}
			paths[layer] = path
		}
		lowers[i].path, lowers[i].remote = paths[layer], true
	}
	return lowers, nil
}

func unavailable(snap snapshot, err error) error {
	return fmt.Errorf("snapshot %q of image %s: layer %s is not mounted: %w: %w",
		snap.info.Name, snap.info.Labels[referenceLabel], snap.info.Labels[digestLabel], errdefs.ErrUnavailable, err)
}

// mount mounts the layer of a snapshot that there is.
func (s *Snapshotter) mount(ctx context.Context, src fs.Source) error {
	drop, err := s.claims.hold(ctx, src.Digest)
	if err != nil {
		return err
	}
	defer drop()
	return s.fs.Mount(ctx, src)
}
