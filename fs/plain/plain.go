// Package plain takes plain layers: tars, plain or compressed with gzip or zstd, that have no table of contents. Such a layer
// has to come as a whole before it can be shown, and is complete then.
//
// Words:
//
//   - piece: what one request brings of the blob. Pieces are fetched several at once and used in order.
//   - block: a piece of the decompressed tar on its way to those who use it.
//   - diffID: the digest of the decompressed tar.
//
// A layer flows through goroutines of its own, without being in memory or on disk in between: pieces are hashed by one and
// decompressed by another, blocks are hashed by a third, and a fourth makes the tree and writes the contents of files into the
// layer store. What the store takes in the end has the blob's digest, and its diffID is what was computed of it. Until then nothing
// of it can be seen, and what is half-made goes when Take fails.
//
// What is in memory of a layer is a few pieces and blocks, a chunk of the data file, a decoder's window, and the tree. All of it is
// reserved with the node's Scheduler, for as long as the layer is taken: the tree as it grows, the rest before anything is asked for.
//
// Take may be called concurrently, also for one layer, which is then fetched twice.
package plain

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/layer"
)

// Options says which layer to take. All but Observer and Awaited are required.
type Options struct {
	Ref       string        // image reference, for messages
	Digest    digest.Digest // of the blob
	Size      int64         // bytes of the blob
	MediaType string        // of the blob; one that Takes knows
	Store     *cache.Store
	Scheduler *layer.Scheduler
	Blob      layer.Blob
	Observer  layer.Observer
	// Awaited is closed when somebody waits for the layer. Until then, reading it gives way to readers of others; nil means that nobody will.
	Awaited <-chan struct{}
}

// A DigestError says that what came is not the blob.
type DigestError struct {
	Host      string // that sent the last of it
	Got, Want digest.Digest
	Err       error // what else was wrong with it; nil if nothing was
}

func (e *DigestError) Error() string {
	s := fmt.Sprintf("from %q: digest is %s, should be %s", e.Host, e.Got, e.Want)
	if e.Err != nil {
		s += fmt.Sprintf(" (%v)", e.Err)
	}
	return s
}

// Unwrap returns Err, and nothing where that is nil: containerd's conversion to gRPC panics at an error that wraps a nil one.
func (e *DigestError) Unwrap() []error {
	if e.Err == nil {
		return nil
	}
	return []error{e.Err}
}

// A RefusedError says that what came is the blob, and no layer that can be shown. It will not be one when it is fetched again.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

func (e *RefusedError) Unwrap() error { return e.Err }

// Takes says whether a layer is a plain one: of a media type whose bytes are all there is to it. Foreign layers, which have
// places of their own to come from, and encrypted ones are not.
func Takes(desc ocispec.Descriptor) bool {
	if len(desc.URLs) > 0 || desc.Size <= 0 {
		return false
	}
	switch desc.MediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		images.MediaTypeDockerSchema2Layer, images.MediaTypeDockerSchema2LayerGzip, images.MediaTypeDockerSchema2LayerZstd:
		return true
	}
	return false
}

// Take brings a layer into the store. Bytes that are not the blob's are fetched once more, from another host if there is one; then the
// error is a *DigestError. Where the bytes are right and no layer that can be shown, it is a *RefusedError.
func Take(ctx context.Context, o Options) error {
	err := take(ctx, o)
	var wrong *DigestError
	if errors.As(err, &wrong) && ctx.Err() == nil {
		o.Blob.Distrust(wrong.Host)
		if o.Observer.VerifyFailure != nil {
			o.Observer.VerifyFailure(wrong.Host)
		}
		if again := take(ctx, o); again == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("take %s layer %s: %w", o.Ref, o.Digest, err)
	}
	return nil
}

func take(ctx context.Context, o Options) error {
	memory, err := o.Scheduler.Reserve(ctx, o.Ref, o.memory())
	if err != nil {
		return err
	}
	defer memory.Release()
	l, err := o.Store.Fill(o.Digest, func(f *cache.Filling) (cache.Info, error) {
		return newStream(o, memory, f).run(ctx)
	})
	if err != nil {
		return err
	}
	return l.Close()
}

// memory is how many bytes taking the layer takes of memory, but for what shows on the way: its decoder's window, and its tree.
func (o Options) memory() int64 {
	return min(o.Size, pieces*pieceSize) + blocks*blockSize + cache.FillMemory + decoderMemory
}

// fetched tells of a piece.
func (o Options) fetched(r layer.Range) {
	r.Priority = layer.Prefetch
	if o.Observer.Fetched != nil {
		o.Observer.Fetched(r)
	}
}
