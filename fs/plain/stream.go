package plain

import (
	"context"
	"errors"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// stream is one attempt to take a layer.
type stream struct {
	Options
	memory  *layer.Reservation
	filling *cache.Filling

	hashed, decoded chan *piece // each piece goes to both
	summed, indexed chan *block // and each block
	free            chan *block
	stop            chan struct{} // closed when no more blocks are wanted

	digest    hash.Hash // of the blob
	diffID    hash.Hash
	format    string // set before the first block
	decodeErr error  // set before summed and indexed are closed
	layout    *toc.Layout
}

func newStream(o Options, memory *layer.Reservation, f *cache.Filling) *stream {
	s := &stream{
		Options: o, memory: memory, filling: f,
		hashed: make(chan *piece, pieces), decoded: make(chan *piece, pieces),
		summed: make(chan *block, blocks), indexed: make(chan *block, blocks), free: make(chan *block, blocks),
		stop:   make(chan struct{}),
		digest: o.Digest.Algorithm().Hash(), diffID: digest.SHA256.Hash(),
	}
	for range blocks {
		s.free <- &block{home: s.free}
	}
	return s
}

// run lets the layer flow through. Whatever goes wrong, everything of it has ended when run returns.
func (s *stream) run(ctx context.Context) (cache.Info, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var fetchErr error
	var group sync.WaitGroup
	group.Go(func() {
		if fetchErr = s.fetch(ctx); fetchErr != nil {
			cancel(fetchErr) // who waits for memory need not wait any more
		}
	})
	group.Go(s.hash)
	group.Go(func() { s.decode(ctx) })
	group.Go(s.sum)
	indexErr := s.index(ctx, writerAt(func(p []byte, off int64) (int, error) {
		if ctx.Err() != nil { // a hole of a sparse file can be long, and needs nothing of what has ended
			return 0, context.Cause(ctx)
		}
		return s.filling.WriteAt(p, off)
	}))
	if errors.Is(indexErr, cache.ErrNotStored) {
		cancel(indexErr) // nothing that could still come would help
	}
	group.Wait()
	if err := s.judge(ctx, fetchErr, indexErr); err != nil {
		return cache.Info{}, err
	}
	if err := s.layout.WriteMetadata(s.filling.Meta); err != nil {
		return cache.Info{}, err
	}
	return cache.Info{
		Format:   s.format,
		BlobSize: s.Size,
		DataSize: s.layout.DataSize,
		DiffID:   digest.NewDigest(digest.SHA256, s.diffID),
		Implied:  s.layout.Implied,
	}, nil
}

// judge says what is wrong with the layer: that it has not come, that what came is not the blob, or that the blob is no layer that can
// be shown. All of the blob is read to tell the last two apart.
func (s *stream) judge(ctx context.Context, fetchErr, indexErr error) error {
	if fetchErr != nil {
		return fetchErr
	}
	err := s.decodeErr
	if err == nil {
		err = indexErr
	}
	if got := digest.NewDigest(s.Digest.Algorithm(), s.digest); got != s.Digest {
		return &DigestError{Host: s.Blob.Host(), Got: got, Want: s.Digest, Err: err}
	}
	if err == nil || ctx.Err() != nil { // which it is of a disk that is full, too
		return err
	}
	return &RefusedError{err}
}

// hash takes the digest of the blob.
func (s *stream) hash() {
	r := &pieceReader{from: s.hashed}
	defer r.close()
	for {
		p, err := r.next()
		if err != nil {
			return // fetch has it too
		}
		_, _ = s.digest.Write(p) // never fails
		r.n += len(p)
	}
}

// sum computes the diffID.
func (s *stream) sum() {
	for b := range s.summed {
		_, _ = s.diffID.Write(b.bytes)
		b.done()
	}
}

// index makes the tree and writes the contents of files. Bytes behind the tar's end count for the diffID.
func (s *stream) index(ctx context.Context, data io.WriterAt) error {
	r := &blockReader{from: s.indexed, end: &s.decodeErr}
	defer r.close()
	layout, err := toc.Index(r, data, func(bytes int64) error { return s.memory.Grow(ctx, bytes) })
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	s.layout = layout
	if err != nil {
		close(s.stop)
	}
	return err
}

// writerAt is a function as an io.WriterAt.
type writerAt func(p []byte, off int64) (int, error)

func (w writerAt) WriteAt(p []byte, off int64) (int, error) { return w(p, off) }
