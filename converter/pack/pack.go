// Package pack makes the lazy blob of a layer of its tar: eStargz, or zstd:chunked, as the compressor has it.
//
// The tar is cut into *chunks* of files, each of which begins a *member*, a gzip member or a zstd frame, that can be decompressed by itself.
// It runs on over what follows in the tar, padding and headers, up to the next chunk. The *TOC* says where each chunk is. What a tar becomes
// depends on the options only, not on the number of cores.
//
// A layer goes through three hands: one goroutine reads and hashes the tar in its new order, as many as there are cores compress it, one
// writes. None of them waits for more than the next, and all end when one fails or the context does.
package pack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync/atomic"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Options say how to pack.
type Options struct {
	// First names the files that come first, in this order, with the folders that they are in and what they are hard links to.
	First []string
	// Edges are, by name of a file, where chunks of it must begin, besides the places that their size gives; sorted. Those outside of the
	// file do nothing.
	Edges map[string][]int64
	// ChunkSize is the most bytes of a file in one chunk. It must not be 0.
	ChunkSize int64
	// MinChunkSize is the least bytes of a member, compressed: chunks share one until it has them. 0 gives each its own.
	MinChunkSize int64
	// Compressor makes members, and the blob's end. Its Writer is called by several goroutines at once.
	Compressor estargz.Compressor
	// Memory bounds what is on its way; nil means a budget of this layer's own.
	Memory *Memory
}

// Packed is what a blob turned out to be.
type Packed struct {
	DiffID           digest.Digest // of what the blob decompresses to
	UncompressedSize int64         // bytes of that
	TOCDigest        digest.Digest
	Skipped          []string // of First, in its order: their layer has no entry for a folder that they are in, or for what they are links to
}

var emptyDigest = digest.FromBytes(nil).String()

// Pack writes the blob to w, in order and by one goroutine at a time. What Normalise has written is read from content. Errors name the
// entry; those of the context are its cause.
func (t *Tar) Pack(ctx context.Context, content io.ReaderAt, w io.Writer, o Options) (*Packed, error) {
	sorted, skipped, err := t.order(o.First)
	if err != nil {
		return nil, err
	}
	if o.Memory == nil {
		o.Memory = NewMemory()
	}
	ahead := 2 * runtime.GOMAXPROCS(0)
	p := &packer{
		Options: o,
		plan: plan{
			sorted: sorted, tar: content, edges: o.Edges, chunkSize: o.ChunkSize, toc: estargz.JTOC{Version: 1},
			uname: make(map[int]string), gname: make(map[int]string),
		},
		out: counter{w: w}, diff: tally{Hash: sha256.New()}, file: sha256.New(),
		order: make(chan *batch, ahead), work: make(chan *batch, ahead),
	}
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	tocDigest, err := o.Compressor.WriteTOCAndFooter(&cancelled{ctx, w}, p.out.n, &p.plan.toc, &p.diff)
	if err != nil {
		return nil, fmt.Errorf("write TOC: %w", err)
	}
	return &Packed{
		DiffID: digest.NewDigest(digest.SHA256, &p.diff), UncompressedSize: p.diff.n, TOCDigest: tocDigest, Skipped: skipped,
	}, nil
}

// packer is one call of Pack. Each goroutine has fields of its own.
type packer struct {
	Options
	order, work chan *batch  // the same batches
	held        atomic.Int64 // of Memory

	// read's
	plan plan
	diff tally

	// write's
	out  counter
	file hash.Hash // of the file whose chunks come
}

func (p *packer) run(ctx context.Context) error {
	defer func() { p.Memory.release(p.held.Load()) }() // what was on its way when it failed
	workers := runtime.GOMAXPROCS(0)
	if p.MinChunkSize > 0 {
		workers = 1 // where a member ends decides on the next one
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { return p.read(ctx) })
	for range workers {
		eg.Go(func() error { return p.compress(ctx) })
	}
	eg.Go(func() error { return p.write(ctx) })
	return eg.Wait()
}

// read hands on batches.
func (p *packer) read(ctx context.Context) error {
	defer close(p.work)
	defer close(p.order)
	b := p.Memory.batch()
	for s := range p.plan.segments {
		if len(b.segments) > 0 && b.size+s.size > batchSize {
			if err := p.send(ctx, b); err != nil {
				return err
			}
			b = p.Memory.batch()
		}
		b.add(s)
	}
	b.last = true
	return p.send(ctx, b)
}

func (p *packer) send(ctx context.Context, b *batch) error {
	if err := p.Memory.acquire(ctx, b); err != nil {
		return err
	}
	p.held.Add(b.weight())
	if err := b.read(); err != nil {
		return err
	}
	_, _ = p.diff.Write(b.raw)
	for _, to := range []chan *batch{p.order, p.work} {
		select {
		case to <- b:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (p *packer) compress(ctx context.Context) (err error) {
	m := &members{compressor: p.Compressor, least: p.MinChunkSize}
	defer func() { err = errors.Join(err, m.abandon()) }()
	for b := range p.work {
		if err := m.pack(ctx, b); err != nil {
			return err
		}
		close(b.done)
	}
	return nil
}

// write writes the batches, in order, and completes the TOC.
func (p *packer) write(ctx context.Context) error {
	for b := range p.order {
		select {
		case <-b.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		err := b.each(func(s *segment, raw []byte) error {
			if s.chunk != nil {
				p.complete(s, raw[:s.payload])
			}
			return nil
		})
		if err != nil {
			return err
		}
		if _, err := p.out.Write(b.packed.Bytes()); err != nil {
			return fmt.Errorf("write blob: %w", err)
		}
		p.held.Add(-b.weight())
		p.Memory.recycle(b)
	}
	return nil
}

// complete sets what a chunk's entry still lacks, and at the end of a file the file's digest.
func (p *packer) complete(s *segment, payload []byte) {
	s.chunk.Offset, s.chunk.InnerOffset = p.out.n+s.begin, s.inner
	last := s.chunk.ChunkSize == 0
	if s.chunk == s.file {
		if last {
			s.file.Digest = s.chunk.ChunkDigest
			return
		}
		p.file.Reset()
	}
	_, _ = p.file.Write(payload)
	if last {
		s.file.Digest = digest.NewDigest(digest.SHA256, p.file).String()
	}
}

// tally is a hash that counts what goes into it.
type tally struct {
	hash.Hash
	n int64
}

func (t *tally) Write(p []byte) (int, error) {
	t.n += int64(len(p))
	return t.Hash.Write(p)
}

// cancelled is a writer that ends with its context.
type cancelled struct {
	ctx context.Context //nolint:containedctx // a writer has no other way to be cancelled
	io.Writer
}

func (w *cancelled) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.Writer.Write(p)
}
