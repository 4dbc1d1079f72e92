package snapshotter

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"

	"github.com/sluice-snapshotter/sluice/fs"
)

// snapshot is one record of the database.
type snapshot struct {
	id   string // names the directory of a local one
	info snapshots.Info
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
	return chain, err
}

// lowers returns the directory of each snapshot of a chain, topmost first,
// after it has mounted the layers that are not mounted.
func (s *Snapshotter) lowers(ctx context.Context, chain []snapshot) ([]lower, error) {
	lowers := make([]lower, len(chain))
	for i, snap := range chain {
		lowers[i] = lower{id: snap.id, path: s.upper(snap.id)}
		if !snap.remote() {
			continue
		}
		path, err := s.layerPath(ctx, snap.source())
		if err != nil {
			return nil, fmt.Errorf("snapshot %q of image %s: layer %s is not mounted: %w: %w",
				snap.info.Name, snap.info.Labels[referenceLabel], snap.info.Labels[digestLabel], errdefs.ErrUnavailable, err)
		}
		lowers[i].path, lowers[i].remote = path, true
	}
	return lowers, nil
}

// layerPath returns the directory that shows a layer. It mounts the layer if a
// restart could not.
func (s *Snapshotter) layerPath(ctx context.Context, src fs.Source) (string, error) {
	if path, err := s.fs.Path(src.Digest); err == nil {
		return path, nil
	}
	if err := s.mount(ctx, src); err != nil {
		return "", err
	}
	return s.fs.Path(src.Digest)
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
