package pack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

const (
	// batchSize is bytes, uncompressed, that are handed on together: small files by the dozen.
	batchSize = 256 << 10

	// step is what is compressed between two looks at the context.
	step = 256 << 10
)

// batch is segments that follow each other, on their way from the tar to the blob.
type batch struct {
	segments []*segment
	size     int64 // bytes of segments
	last     bool
	raw      []byte
	packed   bytes.Buffer
	done     chan struct{} // closed when packed is filled
}

func (b *batch) add(s *segment) {
	b.segments = append(b.segments, s)
	b.size += s.size
}

// read reads the segments.
func (b *batch) read() error {
	b.raw = slices.Grow(b.raw[:0], int(b.size))
	for _, s := range b.segments {
		for _, p := range s.parts {
			at := len(b.raw)
			b.raw = b.raw[:at+int(p.n)]
			if n, err := p.tar.ReadAt(b.raw[at:], p.off); n < int(p.n) {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("read tar entry %q: %w", s.name, err)
			}
		}
	}
	return nil
}

// each goes through the segments, each with its bytes.
func (b *batch) each(do func(s *segment, raw []byte) error) error {
	raw := b.raw
	for _, s := range b.segments {
		if err := do(s, raw[:s.size]); err != nil {
			return err
		}
		raw = raw[s.size:]
	}
	return nil
}

// members compresses segments, each into a member of its own, or, if a member must have least bytes, as many as that takes. Then it needs all
// batches in their order; else whichever.
type members struct {
	compressor estargz.Compressor
	least      int64
	to         *bytes.Buffer            // of the batch
	open       estargz.WriteFlushCloser // nil if no member is
	begin      int64                    // where it begins, from the beginning of the batch
	raw        int64                    // bytes that it has, uncompressed
}

func (m *members) Write(p []byte) (int, error) { return m.to.Write(p) }

// pack fills b.packed, and sets the places and digests of chunks.
func (m *members) pack(ctx context.Context, b *batch) error {
	b.packed.Reset()
	m.to = &b.packed
	err := b.each(func(s *segment, raw []byte) error {
		if err := m.add(ctx, s, raw); err != nil {
			return fmt.Errorf("compress tar entry %q: %w", s.name, err)
		}
		return nil
	})
	if err == nil && b.last {
		err = m.close()
	}
	m.begin -= int64(b.packed.Len())
	return err
}

func (m *members) add(ctx context.Context, s *segment, raw []byte) error {
	if err := m.turn(s); err != nil {
		return err
	}
	s.begin, s.inner = m.begin, m.raw
	if s.chunk != nil {
		s.chunk.ChunkDigest = digest.FromBytes(raw[:s.payload]).String()
	}
	for piece := range slices.Chunk(raw, step) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := m.open.Write(piece); err != nil {
			return err
		}
	}
	m.raw += s.size
	if m.least == 0 {
		return m.close()
	}
	return nil
}

// turn begins another member, unless the segment goes into the one that is open.
func (m *members) turn(s *segment) (err error) {
	if m.open != nil {
		if s.chunk == nil {
			return nil
		}
		if err := m.open.Flush(); err != nil { // or nobody knows how long it is
			return err
		}
		if !s.alone && int64(m.to.Len())-m.begin < m.least {
			return nil
		}
		if err := m.close(); err != nil {
			return err
		}
	}
	m.begin, m.raw = int64(m.to.Len()), 0
	m.open, err = m.compressor.Writer(m)
	return err
}

// close ends the open member, if there is one.
func (m *members) close() error {
	if m.open == nil {
		return nil
	}
	open := m.open
	m.open = nil
	return open.Close()
}

// abandon closes what has failed: an encoder may have goroutines. Its batch may be another's already.
func (m *members) abandon() error {
	m.to = new(bytes.Buffer)
	return m.close()
}
