package snapshotter

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs"
)

// parentChainLabel is set by containerd's unpacker to the chain ID below the
// layer, also when it prepares layers without a parent, to join them at commit
// (core/unpack/unpacker.go, the capability "rebase").
const parentChainLabel = "containerd.io/snapshot/parent-chain-id"

// errRebase says that a layer was offered without its parent. Committed so, it
// would stand for the whole chain.
var errRebase = errors.New("offered without its parent (capability rebase), which remote snapshots do not support")

// prepareRemote makes the committed snapshot that containerd calls target from
// the layer that the labels name. No error means that it exists.
func (s *Snapshotter) prepareRemote(ctx context.Context, target, parent string, labels map[string]string) error {
	if parent == "" && labels[parentChainLabel] != "" {
		return errRebase
	}
	src, offeredErr := s.offered(ctx, target, parent, labels)
	for {
		found, err := s.adopt(ctx, target, parent, offer{labels, src, offeredErr})
		if found || err != nil {
			return err
		}
		if offeredErr != nil {
			return offeredErr
		}
		committed, err := s.mountAndCommit(ctx, target, parent, labels, src)
		if committed || err != nil {
			return err
		}
		// Another caller was faster, perhaps with another blob for the same target,
		// and may have removed its snapshot since.
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// offered is the layer that the labels name, and what its diffID has to make of parent, if both names are chain IDs.
func (s *Snapshotter) offered(ctx context.Context, target, parent string, labels map[string]string) (fs.Source, error) {
	src, err := offeredSource(labels)
	if err != nil {
		return src, err
	}
	below, known, err := s.chainID(ctx, parent)
	if chain, parseErr := digest.Parse(target); parseErr == nil && known {
		src.Chain, src.Below = chain, below
	}
	return src, err
}

// chainID is chainOf the snapshot named name. Without a name it is "".
func (s *Snapshotter) chainID(ctx context.Context, name string) (id digest.Digest, known bool, err error) {
	if name == "" {
		return "", true, nil
	}
	err = s.db.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err := storage.GetInfo(ctx, name)
		if err != nil {
			return fmt.Errorf("parent %q: %w", name, err)
		}
		id, known = chainOf(info)
		return nil
	})
	return id, known, err
}

// offer is what Prepare was given.
type offer struct {
	labels map[string]string
	src    fs.Source
	err    error // why they name no layer
}

// mountAndCommit mounts a layer and commits it; it reports false if target was
// there already. It holds the layer meanwhile, or Cleanup could take it for one
// that no snapshot needs.
func (s *Snapshotter) mountAndCommit(ctx context.Context, target, parent string, labels map[string]string, src fs.Source) (committed bool, err error) {
	drop, err := s.claims.hold(ctx, src.Digest)
	if err != nil {
		return false, err
	}
	if err := s.fs.Mount(ctx, src); err != nil {
		drop()
		if errors.Is(err, fs.ErrRefused) || errors.Is(err, fs.ErrProofFirst) && ctx.Err() == nil {
			return false, errors.Join(err, s.release(context.WithoutCancel(ctx), src.Digest)) // all of it may have come
		}
		return false, err
	}
	if src, err = s.fs.Learned(src); err != nil {
		drop()
		return false, err
	}
	err = s.checkAgain(ctx, parent, src.Digest)
	if err == nil {
		err = s.checkImplied(ctx, target, parent, src.Digest)
	}
	if err == nil {
		committed, err = s.commitRemote(ctx, target, parent, remoteLabels(labels, src))
	} else if errors.Is(err, errImplied) {
		s.fs.Refuse(src.Digest, err) // or each layer above it would bring it again
	}
	drop()
	if committed {
		return true, nil
	}
	// Another caller was faster, or the layer does not fit, or the database is
	// broken: then no snapshot may need the layer.
	return false, errors.Join(err, s.release(context.WithoutCancel(ctx), src.Digest))
}

// adopt reports whether target stands on parent already: from another
// namespace, or from another pull that was faster. If its layer could not be
// mounted after a restart, this is when the registry is likely to be there:
// that of the image it came from, or of the one that it is wanted for now. One
// that has turned out to be another than its name says is not adopted, nor one
// whose layer the registry of the image that wants it does not let it have.
func (s *Snapshotter) adopt(ctx context.Context, target, parent string, o offer) (bool, error) {
	var (
		snap  snapshot
		found bool
	)
	err := s.db.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		snap, found, err = findTarget(ctx, target, parent)
		return err
	})
	if err != nil || !found || !snap.remote() {
		return found, err
	}
	snap.chain, snap.below = o.src.Chain, o.src.Below
	lost := s.ensureLayer(ctx, snap.source())
	if !errors.Is(lost, fs.ErrRefused) {
		err = s.share(ctx, snap, o, lost != nil)
	} else {
		err = lost
	}
	if err != nil {
		return false, fmt.Errorf("snapshot %q, of image %s: %w", snap.info.Name, snap.info.Labels[referenceLabel], err)
	}
	return true, nil
}

// share mounts the layer of a snapshot that there is for another image, which
// takes what Mount asks of one: that its repository has the layer, and that
// the layer is proven if the image is not trusted. An image that offers
// another blob for the same diffIDs has said nothing of this one, so it is
// this one that its repository is asked for. What is offered is one more place
// to fetch from, or, where the snapshot's own has lost the layer, the only one.
func (s *Snapshotter) share(ctx context.Context, snap snapshot, o offer, lost bool) error {
	if o.err != nil {
		return fmt.Errorf("%w: %w", fs.ErrNoRight, o.err)
	}
	src := snap.source()
	if src.Digest != o.src.Digest {
		src.Ref, src.Manifest, src.Held = o.src.Ref, "", false
		return s.mount(ctx, src)
	}
	if err := s.mount(ctx, o.src); err != nil || !lost {
		return err
	}
	return s.relabel(ctx, snap.info, o)
}

// relabel records another source of a snapshot's layer, which is mounted.
func (s *Snapshotter) relabel(ctx context.Context, info snapshots.Info, o offer) error {
	src, err := s.fs.Learned(o.src)
	if err != nil {
		return err
	}
	for k, v := range remoteLabels(o.labels, src) {
		info.Labels[k] = v
	}
	return s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.UpdateInfo(ctx, info)
		return err
	})
}

// findTarget looks for the committed snapshot for target that stands on
// parent. Needs a transaction.
func findTarget(ctx context.Context, target, parent string) (snapshot, bool, error) {
	for _, name := range []string{target, nameOn(target, parent)} {
		id, info, _, err := storage.GetInfo(ctx, name)
		switch {
		case errdefs.IsNotFound(err):
		case err != nil:
			return snapshot{}, false, err
		case info.Kind == snapshots.KindCommitted && info.Parent == parent:
			return snapshot{id: id, info: info}, true, nil
		}
	}
	return snapshot{}, false, nil
}

// nameOn is the name of a target whose own name is taken by a snapshot on
// another parent. Namespaces have parents of their own where containerd had to
// unpack them, and containerd finds a target by its label and parent, not by
// its name (core/metadata/snapshot.go). The parent stands in it by digest:
// names on names would grow with the chain.
func nameOn(target, parent string) string {
	return target + " on " + digest.FromString(parent).String()
}

// commitRemote records a mounted layer as target on parent, all in one
// transaction, so that containerd never sees a half-made snapshot, which its
// garbage collector would remove. It reports false if target was there already.
func (s *Snapshotter) commitRemote(ctx context.Context, target, parent string, labels map[string]string) (bool, error) {
	committed := false
	err := s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		if _, found, err := findTarget(ctx, target, parent); found || err != nil {
			return err
		}
		name := target
		if _, _, _, err := storage.GetInfo(ctx, target); err == nil {
			name = nameOn(target, parent)
		}
		key := "remote " + name // exists only inside of this transaction
		if _, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent); err != nil {
			return fmt.Errorf("commit layer as %q: %w", name, err)
		}
		if _, err := storage.CommitActive(ctx, key, name, snapshots.Usage{}, snapshots.WithLabels(labels)); err != nil {
			return fmt.Errorf("commit layer as %q: %w", name, err)
		}
		committed = true
		return nil
	})
	return committed && err == nil, err
}
