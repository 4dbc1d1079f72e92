package fs

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/layer"
)

// A blob that one image names a TOC for, and another does not, has two forms here, lazy and plain. The store has one of them: that of who
// brought it first, or first after it was removed for want of room. So a snapshot may find the other one than that it was made with. It goes on
// with that if the tree is known to be the same:
//
//   - a plain layer is the blob's own tar, whose diffID is known. It is for who claims that diffID, by whatever TOC; and for a snapshot that was
//     made on the word of a TOC alone, as its name is no chain ID, for that is the same blob;
//   - a lazy layer is for who knows its TOC; and for who claims its diffID, once it is proven. A snapshot has that done and waits for it; of a
//     new image that has not got one yet, containerd unpacks the layer.
//
// The tree is the same but for what a TOC leaves out: itself, and landmarks.
//
// Where a lazy layer has no diffID, for its TOC lies, it gives way to the plain one, unless a container has it.

// fits checks that a plain layer with the given diffID is the one that src means.
func (src Source) fits(diffID digest.Digest) error {
	if src.Held && src.TOCDigest != "" && !src.provable() {
		return nil
	}
	return src.prove(diffID)
}

// awaits checks that src, which names no TOC, can wait for the proof of a layer that has come by one, if that is not done. The error is
// errUnproven.
func (src Source) awaits(diffIDs []digest.Digest) error {
	if len(diffIDs) == 0 && !src.Held {
		return errUnproven
	}
	return nil
}

// removeLie removes a lazy layer whose TOC is known to lie, for src that names none, and reports whether it did.
func (f *FS) removeLie(ctx context.Context, src Source) bool {
	if !src.plain() {
		return false
	}
	st, err := f.opts.Store.Get(src.Digest)
	if err != nil {
		return false
	}
	info := st.Info()
	lies := info.DiffID == layer.NoDiffID || info.TOCDigest != "" && slices.Contains(f.opts.Store.Refused(src.Digest, info.TOCDigest), layer.NoDiffID)
	if st.Close() != nil || !lies {
		return false
	}
	_, err = f.Remove(ctx, src.Digest)
	return err == nil
}

// Source returns what a mounted layer was mounted from, with the TOC digest, diffID and size that were learned on the way. The
// error is fs.ErrNotExist if the layer is not mounted.
func (f *FS) Source(d digest.Digest) (Source, error) {
	m, err := f.appearing(d)
	if err != nil {
		return Source{}, fmt.Errorf("source of layer %s: %w", d, err)
	}
	m.used.touch(m.shown.layer.Store()) // who asks is about to use it
	return m.src, nil
}

// appearing finds a layer that is mounted and shown.
func (f *FS) appearing(d digest.Digest) (*mounted, error) {
	m, err := f.lookup(d)
	if err == nil && !m.appears.is() {
		err = errNotMounted
	}
	return m, err
}

// Learned returns src, for which its layer is mounted, with what has to be known to mount it again without the registry: its size, and the TOC
// that src's image names for it; the diffID if it names none. The error is fs.ErrNotExist if the layer is not mounted.
func (f *FS) Learned(src Source) (Source, error) {
	m, err := f.appearing(src.Digest)
	if err != nil {
		return src, fmt.Errorf("source of layer %s: %w", src.Digest, err)
	}
	src.Size = m.src.Size
	if man, ok := f.manifests.find(src.Manifest); ok && src.TOCDigest == "" {
		if src, err = f.from(src, man); err != nil {
			return src, err
		}
	}
	if src.TOCDigest != "" {
		return src, nil
	}
	known := []digest.Digest{m.src.DiffID}
	if !m.src.plain() {
		known = m.proof.known()
	}
	if len(known) == 0 { // who was given the layer knows its TOC: see agree
		src.TOCDigest = m.src.TOCDigest
		return src, nil
	}
	diffID := src.oneOf(known)
	src.DiffID = diffID
	return src, src.prove(diffID)
}
