package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxDocument is the most bytes that a manifest, index or configuration may have. Registries take manifests of
// 4 MiB at most (distribution's limit); configurations have no such limit, but none near this one has been seen.
const MaxDocument = 8 << 20

// ContentError says that the bytes of a blob are not those that its descriptor promises.
type ContentError struct {
	Want, Got         digest.Digest // Got is empty when the size alone was wrong
	WantSize, GotSize int64
}

func (e *ContentError) Error() string {
	switch {
	case e.GotSize < e.WantSize:
		return fmt.Sprintf("truncated: %d bytes of %d", e.GotSize, e.WantSize)
	case e.GotSize > e.WantSize:
		return fmt.Sprintf("too long: more than the %d bytes of its descriptor", e.WantSize)
	}
	return fmt.Sprintf("wrong digest: content is %s, descriptor says %s", e.Got, e.Want)
}

// Verify returns a reader of r that reports io.EOF only when exactly the descriptor's bytes have passed; otherwise
// it ends with a *ContentError. It also ends when ctx does. The descriptor's digest must be valid.
func Verify(ctx context.Context, r io.Reader, desc ocispec.Descriptor) io.Reader {
	return &verifier{ctx: ctx, r: r, desc: desc, hash: desc.Digest.Algorithm().Digester()}
}

type verifier struct {
	ctx  context.Context //nolint:containedctx // a reader has no other way to be cancelled
	r    io.Reader
	desc ocispec.Descriptor
	hash digest.Digester
	n    int64
	err  error // how it ended
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err == nil {
		v.err = context.Cause(v.ctx)
	}
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.hash.Hash().Write(p[:n])
	v.n += int64(n)
	switch {
	case v.n > v.desc.Size:
		n, v.err = 0, v.wrong("")
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		v.err = v.end()
	default:
		v.err = err
	}
	return n, v.err
}

func (v *verifier) end() error {
	if v.n < v.desc.Size {
		return v.wrong("")
	}
	if got := v.hash.Digest(); got != v.desc.Digest {
		return v.wrong(got)
	}
	return io.EOF
}

func (v *verifier) wrong(got digest.Digest) error {
	return &ContentError{Want: v.desc.Digest, Got: got, WantSize: v.desc.Size, GotSize: v.n}
}

// ReadDocument reads a manifest, index or configuration whole, verified.
func ReadDocument(ctx context.Context, src Source, desc ocispec.Descriptor) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("descriptor %q: %w", desc.Digest, err)
	}
	if desc.Size < 0 || desc.Size > MaxDocument {
		return nil, fmt.Errorf("document %s: %d bytes, at most %d are read", desc.Digest, desc.Size, MaxDocument)
	}
	r, err := src.Fetch(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(Verify(ctx, r, desc))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	return raw, nil
}

// Bytes opens a document that is in memory.
func Bytes(raw []byte) Opener {
	return func() (io.ReadCloser, error) { return bytesReader{bytes.NewReader(raw)}, nil }
}

type bytesReader struct{ *bytes.Reader }

func (bytesReader) Close() error { return nil }

// pour copies verified content from open into w.
func pour(ctx context.Context, w io.Writer, desc ocispec.Descriptor, open Opener) error {
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, Verify(ctx, r, desc))
	return err
}
