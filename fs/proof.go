package fs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
)

// ErrRefused says that a layer is known not to be the one that an image claims it to be. Readers get it (as EIO) if it is not what any
// image claims.
var ErrRefused = errors.New("the layer's contents are not those that the image claims")

// proof is what is known of a mounted layer that came by its TOC: its diffID, and what images say that it is. A layer is mounted on the
// word of its TOC, and snapshots are shared by their chain IDs, so an image could have its own contents stand for those of another.
type proof struct {
	turn chan struct{} // held while it is computed

	mu      sync.Mutex
	claims  []Source
	diffIDs []digest.Digest // that the layer goes by; none until they are computed
}

// claim takes what an image says. The error is that it is known to be wrong.
func (p *proof) claim(src Source) error {
	if !src.provable() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := src.proven(p.diffIDs); err != nil {
		return err
	}
	if !slices.ContainsFunc(p.claims, src.claimsAs) {
		p.claims = append(p.claims, src)
	}
	return nil
}

// claimsAs says whether two sources say the same of their layer.
func (src Source) claimsAs(other Source) bool {
	return src.DiffID == other.DiffID && src.Chain == other.Chain && src.Below == other.Below
}

// open says whether there is something to be proven.
func (p *proof) open() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.diffIDs) == 0 && len(p.claims) > 0
}

// known returns the diffIDs that the layer goes by, none if they are not computed yet.
func (p *proof) known() []digest.Digest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.diffIDs
}

// right says whether a diffID is what some image claims.
func (p *proof) right(d digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.claims, func(src Source) bool { return src.prove(d) == nil })
}

// settle takes the layer's diffIDs, and returns the claims that are right, and those that are wrong.
func (p *proof) settle(diffIDs []digest.Digest) (right, wrong []Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.diffIDs = diffIDs
	for _, src := range p.claims {
		if src.proven(diffIDs) == nil {
			right = append(right, src)
		} else {
			wrong = append(wrong, src)
		}
	}
	p.claims = right
	return right, wrong
}

// proves says whether a layer is to be proven, and is not yet.
func (f *FS) proves(m *mounted) bool {
	return !m.src.plain() && m.proving.Load() && m.proof.open()
}

// prove computes the diffID of a complete layer, and compares it with what images claim. The error is ErrRefused if none of them is
// right: then the layer is not to be read any more. Where some are, the snapshots of the others are not mounted any more.
func (f *FS) prove(ctx context.Context, m *mounted) error {
	select {
	case m.proof.turn <- struct{}{}:
		defer func() { <-m.proof.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if len(m.proof.known()) > 0 { // somebody else was faster
		if m.shown.refused.Load() {
			return ErrRefused
		}
		return nil
	}
	proof, err := m.shown.layer.Prove(ctx, m.proof.right)
	d := proof.DiffID
	switch {
	case d == "":
		return err
	case err != nil:
		m.shown.logger.WithError(err).Warn("the layer's diffID is computed, and has to be again after a restart")
	}
	right, wrong := m.proof.settle(cache.Info{DiffID: d, Padded: proof.Padded}.DiffIDs())
	for _, src := range wrong {
		m.shown.logger.WithField("image", src.Ref).WithError(errors.Join(proof.Why, src.prove(d))).
			Error("an image claims that a layer is another one than it is: it is not mounted for this image any more")
	}
	if len(wrong) > 0 {
		if err := f.opts.Store.Refuse(cache.Refusal{Digest: m.src.Digest, TOCDigest: m.src.TOCDigest, DiffID: d, Padded: proof.Padded}); err != nil {
			m.shown.logger.WithError(err).Warn("once the layer is gone, and comes again, it is mounted until it is found out again")
		}
	}
	f.opts.Proved(len(wrong) == 0)
	if len(right) > 0 {
		m.shown.logger.WithField("diffID", d).Debug("the layer is what its image claims")
		return nil
	}
	m.shown.refused.Store(true)
	f.server.forget(m.shown)
	return ErrRefused
}

// Contradicted returns why a mounted layer is not the one that src means, nil if nothing is known against it. The error wraps ErrRefused.
func (f *FS) Contradicted(src Source) error {
	m, err := f.lookup(src.Digest)
	if err != nil || m.src.plain() || !src.provable() {
		return nil
	}
	return src.proven(m.proof.known())
}

// proven checks src against the diffIDs of a layer that has come by its TOC, if they are known. The error wraps ErrRefused.
func (src Source) proven(diffIDs []digest.Digest) error {
	if len(diffIDs) == 0 || !src.provable() {
		return nil
	}
	if err := src.prove(src.oneOf(diffIDs)); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

// oneOf returns the diffID among several of a layer that src means, the first one if it means none of them.
func (src Source) oneOf(diffIDs []digest.Digest) digest.Digest {
	return diffIDs[max(0, slices.IndexFunc(diffIDs, func(d digest.Digest) bool { return src.prove(d) == nil }))]
}
