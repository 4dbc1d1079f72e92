package fs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// Source says which layer is meant, and what is known about it. Ref and Digest are required.
type Source struct {
	Ref       string        // image reference, for the registry and for people
	Digest    digest.Digest // of the layer's blob
	Manifest  digest.Digest // of the image's manifest; "" if not known
	TOCDigest digest.Digest // from a label; "" if not known
	Size      int64         // bytes of the blob; 0 if not known
	Held      bool          // a snapshot shows the layer for Ref already: its registry need not be asked whether it may

	// What a plain layer is checked against: its diffID, or else the chain ID that it makes on top of the layers below, which
	// have the chain ID Below; "" if there are none.
	DiffID, Chain, Below digest.Digest

	// From the manifest.
	place     toc.Place // of the TOC; zero if it is not told
	listed    string    // toc.PrefetchAnnotation
	begins    int64     // toc.PrefetchSizeAnnotation; 0 without
	whole     bool      // the layer is so small that it is fetched along with its TOC
	mediaType string    // "" unless the layer is a plain one
}

// mounted is a layer that the kernel sees.
type mounted struct {
	src     Source   // of the image it was mounted for first
	places  *sources // of all images it was mounted for
	shown   *shown
	proof   proof
	appears appearance
	ways    ways
	used    use
	fills   atomic.Bool   // some image wants all of it fetched
	proving atomic.Bool   // some image wants it proven
	first   atomic.Bool   // it is being proven for an image that is not trusted
	mending atomic.Bool   // a plain layer is being streamed again
	fetched chan struct{} // closed when the beginning of the prefetch list is on disk, or the list given up
	stop    func()        // ends fetching, and the wait for its end
	ended   chan struct{} // closed when neither is under way any more
}

// bringTimeout is how long a registry may take for a layer's manifest and TOC: then containerd is to try for itself.
// stargz-snapshotter's mount_timeout_sec.
const bringTimeout = 30 * time.Second

var errSlow = fmt.Errorf("the registry has not sent the layer's TOC within %s", bringTimeout)

// Mount makes Path have an answer for src.Digest. It does nothing if it has one. It needs the network only for a layer
// that the store does not have, or whose TOC digest src does not say, or that was not read from src's repository for an hour (see rights.go). The
// error is ErrNotLazy if nothing has a TOC digest for it, and it is no plain layer whose diffID src can tell, and ErrNoRight if the store has it
// and src's registry does not let it be read. A plain layer is fetched as a whole, for as long as it takes.
//
// A layer of an image that Options.Untrusted names is fetched as a whole and proven before. The error wraps ErrRefused if the layer is known
// not to be what src means, and then ErrUntrusted too if src is not trusted.
//
// When ctx ends Mount returns, but mounting goes on, for others and for the next attempt.
func (f *FS) Mount(ctx context.Context, src Source) error { return f.mountFor(ctx, src, true) }

// MountAgain is Mount for a layer that was mounted for src before, by an earlier process. It does not wait for proofs: where one is needed
// first it begins, and the error says so.
func (f *FS) MountAgain(ctx context.Context, src Source) error { return f.mountFor(ctx, src, false) }

func (f *FS) mountFor(ctx context.Context, src Source, wait bool) error {
	err := f.mountOnce(ctx, src, wait)
	if errors.Is(err, ErrRefused) && f.removeLie(ctx, src) {
		err = f.mountOnce(ctx, src, wait)
	}
	if errors.Is(err, ErrRefused) && f.opts.Untrusted(src.Ref) {
		err = fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if err != nil {
		return fmt.Errorf("mount layer %s of %s: %w", src.Digest, src.Ref, err)
	}
	return nil
}

// mountOnce is mountFor with the layer as the store has it.
func (f *FS) mountOnce(ctx context.Context, src Source, wait bool) error {
	if err := f.entitleStored(ctx, src); err != nil {
		return err
	}
	s, err := f.slotFor(ctx, src)
	if err != nil {
		return err
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if s.err != nil {
		return s.err
	}
	if src, err = f.agree(ctx, src, s.mounted); err != nil {
		return err
	}
	if err := f.admit(ctx, src, s.mounted, wait); err != nil {
		return err
	}
	if wait { // else it is as after a start, and who used it last did so before
		s.mounted.used.pull(s.mounted.shown.layer.Store())
	}
	f.pulled(src, s.mounted.shown)
	return nil
}

// agree checks that src means the layer that is mounted: one blob has one TOC, and an image that names another must not
// be given what a different image, from a registry that lies, has brought; and that src's image may have it at all. Its repository is one more
// to fetch from. It returns src with what its manifest says.
func (f *FS) agree(ctx context.Context, src Source, m *mounted) (_ Source, err error) {
	if err := f.entitle(ctx, src); err != nil {
		return src, err
	}
	if m.src.plain() {
		if err := src.fits(m.src.DiffID); err != nil {
			return src, err
		}
		return src, f.addSource(m.places, src)
	}
	if src.TOCDigest == "" && !src.plain() {
		if src, err = f.resolve(ctx, src); err != nil {
			return src, err
		}
	}
	if src.plain() {
		err = src.awaits(m.proof.known())
	} else if src, err = src.with(m.src.TOCDigest, m.src.Size); err == nil {
		err = f.remembered(src)
	}
	if err != nil {
		return src, err
	}
	if err := m.proof.claim(src); err != nil {
		return src, err
	}
	if f.wants(m, src) {
		f.fetchAgain(ctx, m)
	}
	if slices.ContainsFunc(m.proof.known(), m.proof.right) { // those whom it was refused to were wrong
		m.shown.refused.Store(false)
	}
	return src, f.addSource(m.places, src)
}

// mount opens the layer, shows it, mounts it and starts to fetch it; for an image that is not trusted it only opens it.
func (f *FS) mount(ctx context.Context, src Source) (_ *mounted, err error) {
	began := time.Now()
	bringing, cancel := context.WithTimeoutCause(ctx, f.patience, errSlow)
	defer cancel()
	if src, err = f.bring(bringing, src); err != nil {
		return nil, err
	}
	if src.plain() { // it takes as long as it takes
		if src, err = f.bringWhole(ctx, src); err != nil {
			return nil, err
		}
	}
	l, err := f.openMounted(ctx, src)
	if err != nil {
		return nil, err
	}
	sh, err := newShown(ctx, src.Ref, l.Layer)
	if errors.Is(err, metadata.ErrCorrupt) { // the next attempt fetches it again
		err = errors.Join(err, f.opts.Store.Remove(src.Digest))
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	m := &mounted{src: src, places: l.places, shown: sh, fetched: make(chan struct{}), ended: make(chan struct{})}
	m.proof.turn = make(chan struct{}, 1)
	m.ways.unmount, m.ways.standing, m.ways.logger = f.unmountWay, f.standing, sh.logger
	m.ways.remount = func(w way) error { return f.remount(context.WithoutCancel(ctx), m, w) }
	m.proof.diffIDs = l.Store().Info().DiffIDs()
	if err := m.proof.claim(src); err != nil { // it was found out just now
		return nil, errors.Join(err, sh.close())
	}
	f.wants(m, src)
	m.used.begin(l.Store(), f.started)
	if f.distrusts(src, m) {
		return m, nil // admit sees to it
	}
	if err := f.reveal(ctx, m); err != nil {
		return nil, errors.Join(err, sh.close())
	}
	sh.logger.WithField("mounts", m.ways.kinds()).WithField("took", time.Since(began)).Debug("mounted layer")
	return m, nil
}

// Unmount unmounts a layer and removes it from the store; if it is not mounted, only that. Who still has files of a lazy
// mount open gets EIO for what the kernel does not have in memory; a native one lives as long as it is used, and keeps the
// layer's space on disk.
func (f *FS) Unmount(ctx context.Context, d digest.Digest) error {
	if err := f.unmount(ctx, d); err != nil {
		return fmt.Errorf("unmount layer %s: %w", d, err)
	}
	return nil
}

func (f *FS) unmount(ctx context.Context, d digest.Digest) error {
	s, err := f.take(ctx, d)
	if err != nil {
		return err
	}
	if s == nil {
		f.rights.forget(d)
		return f.opts.Store.Remove(d)
	}
	defer f.leaving.Done()
	err = f.dismantle(s.mounted)
	err = errors.Join(err, f.opts.Store.Remove(d))
	f.rights.forget(d)
	f.vacate(s)
	return err
}

// dismantle undoes mount. Reads end first: the kernel does not let go of a mount while it waits for one.
func (f *FS) dismantle(m *mounted) error {
	if m.appears.end() {
		m.stop()
		<-m.ended
		f.server.hide(m.shown.id)
	}
	err := m.shown.close()
	return errors.Join(err, m.ways.close())
}

// Wait returns when the prefetch lists of mounted layers are on disk, of long ones the beginning, or could not be fetched, or when
// PrefetchTimeout has passed: then the container starts all the same. The error is ctx's, or fs.ErrNotExist if a layer is not mounted.
func (f *FS) Wait(ctx context.Context, ds []digest.Digest) error {
	f.starts(ds)
	timeout := time.NewTimer(f.opts.PrefetchTimeout)
	defer timeout.Stop()
	for _, d := range ds {
		m, err := f.lookup(d)
		if err != nil {
			return fmt.Errorf("wait for layer %s: %w", d, err)
		}
		select {
		case <-m.fetched:
		case <-timeout.C:
			log.G(ctx).WithField("layer", d).Info("the prefetch list is not on disk in time; going on")
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for layer %s: %w", d, context.Cause(ctx))
		}
	}
	return nil
}
