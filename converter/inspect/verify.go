package inspect

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// Result is what Verify found out about one layer.
type Result struct {
	Layer
	// Err is nil when the blob, its TOC and each of its chunks have the digests that they should.
	Err error `json:"-"`
	// Error is Err in words, for the JSON form.
	Error string `json:"error,omitempty"`
}

// ChunkError is a chunk whose content is not what the TOC says.
type ChunkError struct {
	Offset    int64 // bytes into the blob where the stream that holds it begins
	Inner     int64 // bytes into that stream
	Got, Want digest.Digest
}

func (e *ChunkError) Error() string {
	return fmt.Sprintf("chunk at %d+%d: content is %s, TOC says %s", e.Offset, e.Inner, e.Got, e.Want)
}

// Verify reads every layer of the selected images once, from beginning to end, and the TOCs of lazy ones. It calls
// done for each, as they are finished. The error that it returns itself is one that kept it from going on.
func Verify(ctx context.Context, src endpoint.Source, sel image.Selection, done func(Result)) error {
	root, err := image.Load(ctx, src, sel)
	if err != nil {
		return fmt.Errorf("image %s: %w", src, err)
	}
	for _, n := range root.Images() {
		for _, desc := range n.Manifest.Layers {
			l, err := outline(desc)
			if err != nil {
				return fmt.Errorf("image %s: %w", src, err)
			}
			if l.Format != "foreign" {
				err = verifyLayer(ctx, src, desc, &l)
			}
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			l.Platform, l.Manifest = n.Manifest.Platform(), n.Desc.Digest
			r := Result{Layer: l, Err: err}
			if err != nil {
				r.Error = err.Error()
			}
			done(r)
		}
	}
	return nil
}

func verifyLayer(ctx context.Context, src endpoint.Source, desc ocispec.Descriptor, l *Layer) error {
	var chunks []toc.Chunk
	var tocErr error
	if l.Lazy() {
		layout, err := l.readTOC(ctx, src, desc)
		if err != nil {
			tocErr = err // the blob's own digest is worth knowing all the same
		} else {
			chunks = layout.Chunks
		}
	}
	rc, err := src.Fetch(ctx, desc)
	if err != nil {
		return errors.Join(tocErr, fmt.Errorf("fetch: %w", err))
	}
	defer rc.Close()
	blob := endpoint.Verify(ctx, rc, desc)
	s := &stream{r: bufio.NewReaderSize(blob, 1<<20)}
	chunkErr := s.verify(toc.Format(l.Format), chunks)
	_, blobErr := io.Copy(io.Discard, blob)
	if errors.Is(chunkErr, blobErr) {
		blobErr = nil // the same, seen twice
	}
	return errors.Join(tocErr, chunkErr, blobErr)
}

// stream is a blob that is read once, forwards.
type stream struct {
	r   *bufio.Reader
	off int64
}

// verify checks the chunks of a blob, in the blob's order.
func (s *stream) verify(format toc.Format, chunks []toc.Chunk) error {
	chunks = slices.Clone(chunks)
	slices.SortFunc(chunks, func(a, b toc.Chunk) int {
		return cmp.Or(cmp.Compare(a.BlobOffset, b.BlobOffset), cmp.Compare(a.InnerOffset, b.InnerOffset))
	})
	for len(chunks) > 0 {
		n := 1
		for n < len(chunks) && chunks[n].BlobOffset == chunks[0].BlobOffset {
			n++
		}
		if err := s.verifyStream(format, chunks[:n]); err != nil {
			return err
		}
		chunks = chunks[n:]
	}
	return nil
}

// verifyStream checks the chunks of one compressed stream.
func (s *stream) verifyStream(format toc.Format, chunks []toc.Chunk) error {
	begin := chunks[0].BlobOffset
	if begin < s.off {
		return fmt.Errorf("chunk at %d: its stream begins inside the one before it", begin)
	}
	if _, err := io.CopyN(io.Discard, s.r, begin-s.off); err != nil {
		return fmt.Errorf("read up to chunk at %d: %w", begin, err)
	}
	limited := &io.LimitedReader{R: s.r, N: chunks[0].BlobSize}
	defer func() { s.off = begin + chunks[0].BlobSize - limited.N }()
	plain, err := format.NewReader(limited)
	if err != nil {
		return fmt.Errorf("decompress chunk at %d: %w", begin, err)
	}
	defer plain.Close()
	var inner int64
	for i, c := range chunks {
		if i > 0 && sameBytes(c, chunks[i-1]) {
			continue
		}
		if c.InnerOffset < inner {
			return fmt.Errorf("chunk at %d+%d: overlaps the one before it", begin, c.InnerOffset)
		}
		if _, err := io.CopyN(io.Discard, plain, c.InnerOffset-inner); err != nil {
			return fmt.Errorf("decompress up to chunk at %d+%d: %w", begin, c.InnerOffset, err)
		}
		hash := sha256.New()
		if _, err := io.CopyN(hash, plain, c.Size); err != nil {
			return fmt.Errorf("decompress chunk at %d+%d: %w", begin, c.InnerOffset, err)
		}
		if got := [32]byte(hash.Sum(nil)); got != c.Digest {
			return &ChunkError{
				Offset: begin, Inner: c.InnerOffset,
				Got: digest.NewDigestFromBytes(digest.SHA256, got[:]), Want: digest.NewDigestFromBytes(digest.SHA256, c.Digest[:]),
			}
		}
		inner = c.InnerOffset + c.Size
	}
	return nil
}

// sameBytes tells chunks that are the same piece of the blob, for two files: it need not be read twice.
func sameBytes(a, b toc.Chunk) bool {
	a.DataOffset = b.DataOffset
	return a == b
}
