package layer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// NoDiffID stands for the diffID of a layer that has none: its blob does not decompress to a tar that has its chunks where its TOC says, or
// that tar's tree is not the one that its TOC describes.
const NoDiffID digest.Digest = "none"

// Proof is what a layer has turned out to be.
type Proof struct {
	DiffID digest.Digest   // of its tar; NoDiffID if it has none; "" if that could not be found out
	Padded []digest.Digest // those that go for it as well, see cache.Info
	Why    error           // why it has none
}

// Prove computes the diffID of a layer whose chunks are all in the store, the digest of its tar, of what readers get and of the layer's
// skeleton, and records it in the store. It is NoDiffID for a layer that cannot have one. The tree of that tar is compared with the one that
// is mounted (toc.Shown).
//
// What the skeleton lacks is guessed, or fetched. right says whether a diffID is one that is expected. If it is not, or the trees differ, that
// may be because of a guess: then what was guessed is fetched too. If it still is not, that may be because the skeleton is damaged, which nobody
// checks, or the data file, or the metadata image: then all is checked, the whole blob is fetched anew for its skeleton, and compared
// with its digest. What comes of that is what the layer is.
//
// All is done as background work, and the layers of the node take turns at being hashed. An error with a diffID says that it could not be recorded; one
// without, that it could not be found out, and can be tried again. It wraps cache.ErrIncomplete where chunks are missing.
func (l *Layer) Prove(ctx context.Context, right func(digest.Digest) bool) (Proof, error) {
	if err := l.begin(); err != nil {
		return Proof{}, err
	}
	defer l.alive.RUnlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.life, func() { cancel(ErrClosed) })()
	proof, err := l.prove(ctx, right)
	if err == nil {
		err = l.store.SetDiffID(proof.DiffID, proof.Padded...)
	}
	if err != nil {
		err = l.wrap("prove", err)
	}
	return proof, err
}

func (l *Layer) prove(ctx context.Context, right func(digest.Digest) bool) (Proof, error) {
	if !l.store.Complete() {
		return Proof{}, cache.ErrIncomplete
	}
	for styles := toc.Styles(); ; {
		s, err := l.sum(ctx, styles, false)
		if err != nil && !condemns(err) {
			return Proof{}, err
		}
		if err == nil && slices.ContainsFunc(s.digests, right) {
			return s.proof(right), nil
		}
		if !s.guessed {
			break
		}
		styles = s.styles
	}
	defer l.store.Pin()()      // what is to condemn must not miss what was taken away for want of room
	_ = l.store.DropSkeleton() // if the disk does not let it go, it will not be believed the next time either
	if err := errors.Join(l.store.Recheck(ctx), l.store.CheckMetadata()); err != nil {
		return Proof{}, err
	}
	s, err := l.sumAnew(ctx)
	switch {
	case condemns(err):
		return Proof{DiffID: NoDiffID, Why: err}, nil
	case err != nil:
		return Proof{}, err
	}
	return s.proof(right), nil
}

// condemns says whether an error is the blob's, or its TOC's.
func condemns(err error) bool {
	var broken *brokenError
	var differs *toc.DifferenceError
	return errors.As(err, &broken) || errors.As(err, &differs)
}

// sumAnew is sum for the last word. One layer of the node at a time has its whole tree in memory for that.
func (l *Layer) sumAnew(ctx context.Context) (summed, error) {
	select {
	case l.scheduler.trees <- struct{}{}:
		defer func() { <-l.scheduler.trees }()
	case <-ctx.Done():
		return summed{}, context.Cause(ctx)
	}
	return l.sum(ctx, nil, true)
}

// summed is what came of going through a layer's tar.
type summed struct {
	digests []digest.Digest // of the tar, and of it with more of its end
	guessed bool            // what came of it, an error too, may be so because something was guessed
	styles  []toc.Style     // in which it can be guessed otherwise
}

// proof is what is to be kept: not only the digest that is expected now, as an image may come that rightly names another.
func (s summed) proof(right func(digest.Digest) bool) Proof {
	return Proof{DiffID: s.digests[max(0, slices.IndexFunc(s.digests, right))], Padded: s.digests}
}

// brokenError says that a blob is not what its TOC makes of it.
type brokenError struct{ err error }

func (e *brokenError) Error() string {
	return fmt.Sprintf("the blob is not what its TOC says: %v", e.err)
}

// prover goes through a layer's tar once.
type prover struct {
	*Layer
	ctx      context.Context // of its one call
	tar      hash.Hash
	yield    func(p []byte, at int64) bool // takes bytes of the tar
	skeleton *cache.Skeleton               // nil: all of it is fetched
	toc      *keptTOC                      // nil: nothing is guessed
	guesses  *guesses                      // nil: there are none
	guessed  bool                          // one was used
	blob     *blobPieces
	data     *dataWindow
	rest     []int    // chunks of streams that were not gone over yet
	turn     *entrant // at the cores; nil outside
	hashed   int      // bytes in this turn at the cores, see spend
	share    int      // bytes since it has scheduler.proofs
	loose    int64    // how many more bytes the tar may have that are in no chunk
	patience time.Duration
	holds    bool // scheduler.proofs
}

// sum computes the layer's diffID, and behind it what it would be with more of a tar's end, and compares the tar's tree with the mounted one.
// What the skeleton lacks is guessed in the first of styles that its pieces do not speak against, if there is one. Anew, nothing is believed of
// the skeleton, the blob's digest is checked, and so is the whole tree where that makes a difference.
func (l *Layer) sum(ctx context.Context, styles []toc.Style, anew bool) (summed, error) {
	p := &prover{Layer: l, ctx: ctx, tar: digest.SHA256.Hash(), data: &dataWindow{store: l.store}, patience: patience}
	p.blob = newBlobPieces(p, anew)
	defer p.release()
	defer l.store.Trim()
	l.scheduler.heap.begin()
	defer l.scheduler.heap.end(proofTurn)
	if !anew {
		s, err := l.store.Skeleton()
		if err != nil {
			return summed{}, err
		}
		defer s.Close()
		p.skeleton = s
	}
	var err error
	if p.loose, err = p.mostLoose(); err != nil {
		return summed{}, err
	}
	if err := p.hold(); err != nil {
		return summed{}, err
	}
	left, err := p.learn(styles)
	defer p.endGuesses()
	if err == nil {
		err = p.compare(anew)
	}
	s := summed{guessed: p.guessed, styles: left}
	if err == nil {
		s.digests = p.sums()
	}
	return s, err
}

const (
	tarBlock  = 512
	tarRecord = 20 * tarBlock
)

// sums returns the digest of the tar, and those of it with up to a record more of zeros, block by block. They end a tar, and mean nothing
// else. skopeo 1.9 does not compress them, so its blobs have less of them than the tars whose diffIDs its images name.
func (p *prover) sums() []digest.Digest {
	sums := []digest.Digest{digest.NewDigest(digest.SHA256, p.tar)}
	for range tarRecord / tarBlock {
		_, _ = p.tar.Write(make([]byte, tarBlock)) // never fails
		sums = append(sums, digest.NewDigest(digest.SHA256, p.tar))
	}
	return sums
}

// run goes over the blob's streams, and what lies between them.
func (p *prover) run() error {
	p.rest = p.inBlobOrder()
	pos := int64(0)
	for len(p.rest) > 0 {
		first := p.store.Chunk(p.rest[0])
		n := 1
		for n < len(p.rest) && p.store.Chunk(p.rest[n]).BlobOffset == first.BlobOffset {
			n++
		}
		if err := p.between(pos, first.BlobOffset); err != nil {
			return err
		}
		chunks := p.rest[:n]
		p.rest = p.rest[n:]
		if err := p.stream(first, chunks); err != nil {
			return err
		}
		pos = first.BlobOffset + first.BlobSize
	}
	return p.behind(pos)
}

// inBlobOrder returns the numbers of all chunks, in the order of the tar.
func (p *prover) inBlobOrder() []int {
	order := make([]int, p.store.NumChunks())
	sorted, last := true, cache.Chunk{}
	for i := range order {
		order[i] = i
		c := p.store.Chunk(i)
		sorted = sorted && compareInBlob(last, c) <= 0
		last = c
	}
	if !sorted {
		slices.SortStableFunc(order, func(a, b int) int { return compareInBlob(p.store.Chunk(a), p.store.Chunk(b)) })
	}
	return order
}

func compareInBlob(a, b cache.Chunk) int {
	return cmp.Or(cmp.Compare(a.BlobOffset, b.BlobOffset), cmp.Compare(a.InnerOffset, b.InnerOffset))
}

// between hashes what streams decompress to that no chunk lies in.
func (p *prover) between(from, to int64) error {
	if from >= to {
		return nil
	}
	if piece, ok := p.guesses.at(from, to, 0); ok {
		p.guessed = true
		return p.write(piece)
	}
	return p.fetched(from, to-from, nil)
}

// stream hashes what a stream with chunks, and what follows it without any, decompresses to.
func (p *prover) stream(first cache.Chunk, chunks []int) error {
	if p.skeleton != nil {
		if piece, ok := p.skeleton.Piece(first.BlobOffset); ok && p.fits(piece, chunks) {
			return p.kept(piece, chunks)
		}
	}
	if piece, ok := p.guesses.at(first.BlobOffset, first.BlobOffset+first.BlobSize, len(chunks)); ok && p.fits(piece, chunks) {
		p.guessed = true
		return p.kept(piece, chunks)
	}
	return p.fetched(first.BlobOffset, first.BlobSize, chunks)
}

// through returns up to where the blob is going to be fetched if it is fetched up to end: a range more at most.
func (p *prover) through(end int64) int64 {
	if p.guesses != nil { // which tell only when it is their turn
		return end
	}
	most := end + backgroundRange
	for _, i := range p.rest {
		c := p.store.Chunk(i)
		if end >= most || p.skeleton != nil && p.skeleton.Has(c.BlobOffset) {
			break
		}
		end = max(end, c.BlobOffset+c.BlobSize)
	}
	return end
}

// fits says whether a piece has at least what lies between chunks.
func (p *prover) fits(piece []byte, chunks []int) bool {
	pos, between := int64(0), int64(0)
	for _, i := range chunks {
		c := p.store.Chunk(i)
		if c.InnerOffset < pos {
			return false
		}
		between += c.InnerOffset - pos
		pos = c.InnerOffset + c.Size
	}
	return between <= int64(len(piece))
}

// kept hashes a stream of which there is its piece.
func (p *prover) kept(piece []byte, chunks []int) error {
	pos := int64(0)
	for _, i := range chunks {
		c := p.store.Chunk(i)
		gap := c.InnerOffset - pos
		if err := p.write(piece[:gap]); err != nil {
			return err
		}
		piece = piece[gap:]
		if err := p.data.hash(c, p.writeAt); err != nil {
			return err
		}
		pos = c.InnerOffset + c.Size
	}
	return p.write(piece)
}

// fetched hashes streams of the blob that are fetched. Chunks count with what readers get, not with what comes now.
func (p *prover) fetched(off, size int64, chunks []int) error {
	p.blob.seek(off, size)
	r, err := p.format.NewReaderAll(p.blob)
	if err != nil {
		return p.broken(err)
	}
	defer r.Close()
	pos, last := int64(0), cache.Chunk{}
	for _, i := range chunks {
		c := p.store.Chunk(i)
		if c.InnerOffset == last.InnerOffset && c.Size == last.Size && c.Digest == last.Digest {
			continue // the same bytes under two names
		}
		if c.InnerOffset < pos {
			return p.broken(fmt.Errorf("chunk %d begins at %d of its stream, the one before ends at %d", i, c.InnerOffset, pos))
		}
		if _, err := io.CopyN(writer(p.write), r, c.InnerOffset-pos); err != nil {
			return p.broken(err)
		}
		if _, err := io.CopyN(io.Discard, r, c.Size); err != nil {
			return p.broken(err)
		}
		if err := p.data.hash(c, p.writeAt); err != nil {
			return err
		}
		pos, last = c.InnerOffset+c.Size, c
	}
	if _, err := io.Copy(writer(p.write), r); err != nil {
		return p.broken(err)
	}
	return nil
}

// broken is the error for err, which decoding has met: it is the blob's if nothing else went wrong.
func (p *prover) broken(err error) error {
	switch {
	case p.ctx.Err() != nil:
		return context.Cause(p.ctx)
	case p.blob.err != nil:
		return p.blob.err
	case errors.Is(err, errEnough), condemns(err):
		return err
	}
	return &brokenError{err}
}

type writer func([]byte) error

func (w writer) Write(b []byte) (int, error) {
	if err := w(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// write hashes bytes of the tar that are in no chunk.
func (p *prover) write(b []byte) error {
	if p.loose -= int64(len(b)); p.loose < 0 {
		return &brokenError{errLoose}
	}
	return p.writeAt(b, -1)
}

// writeAt hashes bytes of the tar, and passes them on with where they are in the address space.
func (p *prover) writeAt(b []byte, at int64) error {
	if err := p.spend(len(b)); err != nil {
		return err
	}
	_, _ = p.tar.Write(b) // never fails
	if len(b) > 0 && !p.yield(b, at) {
		return errEnough
	}
	return nil
}
