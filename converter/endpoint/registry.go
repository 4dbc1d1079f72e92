package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// NewRegistrySource reads the image that ref (a full reference) names in its registry.
func NewRegistrySource(resolver remotes.Resolver, ref string) Source {
	return &registrySource{resolver: resolver, ref: ref}
}

type registrySource struct {
	resolver remotes.Resolver
	ref      string
}

func (s *registrySource) String() string { return s.ref }
func (s *registrySource) Close() error   { return nil }

func (s *registrySource) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	_, desc, err := s.resolver.Resolve(ctx, s.ref)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve: %w", err)
	}
	return desc, nil
}

func (s *registrySource) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	fetcher, err := s.resolver.Fetcher(ctx, s.ref)
	if err != nil {
		return nil, err
	}
	return fetcher.Fetch(ctx, desc)
}

func (s *registrySource) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (ReaderAt, error) {
	return &remoteReaderAt{ctx: ctx, src: s, desc: desc}, nil
}

// remoteReaderAt makes one ranged request per read, which suits reading a TOC: there are at most two.
type remoteReaderAt struct {
	ctx  context.Context //nolint:containedctx // io.ReaderAt has no other way to be cancelled
	src  *registrySource
	desc ocispec.Descriptor
}

func (r *remoteReaderAt) ReadAt(p []byte, off int64) (int, error) {
	rc, err := r.src.Fetch(r.ctx, r.desc)
	if err != nil {
		return 0, err
	}
	defer rc.Close()
	seeker, ok := rc.(io.Seeker)
	if !ok {
		return 0, fmt.Errorf("read %s at %d: %w", r.desc.Digest, off, errors.ErrUnsupported)
	}
	if _, err := seeker.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(rc, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

func (r *remoteReaderAt) Close() error { return nil }

// NewRegistryTarget gives ref (a full reference with a tag) to a new image. The resolver must not be shared with
// another target: containerd's remembers what has been pushed by digest alone.
func NewRegistryTarget(resolver remotes.Resolver, ref string) (Target, error) {
	named, err := reference.ParseNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", ref, err)
	}
	if _, ok := named.(reference.Digested); ok {
		return nil, fmt.Errorf("target %s: a digest cannot be chosen, name a tag", ref)
	}
	return &registryTarget{resolver: resolver, ref: ref}, nil
}

type registryTarget struct {
	resolver remotes.Resolver
	ref      string
}

func (t *registryTarget) String() string { return t.ref }
func (t *registryTarget) Close() error   { return nil } // what is not tagged is the registry's to collect

// nothing is a digest that no document has. A pusher of "name:tag@digest" gives the tag to the document of that
// digest only, so one with this pushes manifests by their own digests and leaves the tag alone.
var nothing = digest.FromString("")

func (t *registryTarget) Push(ctx context.Context, desc ocispec.Descriptor, open Opener) error {
	return t.push(ctx, nothing, desc, open)
}

func (t *registryTarget) Tag(ctx context.Context, root ocispec.Descriptor, raw []byte) error {
	return t.push(ctx, root.Digest, root, Bytes(raw))
}

func (t *registryTarget) push(ctx context.Context, tagged digest.Digest, desc ocispec.Descriptor, open Opener) error {
	pusher, err := t.resolver.Pusher(ctx, t.ref+"@"+tagged.String())
	if err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, err)
	}
	w, err := pusher.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, err)
	}
	defer w.Close()
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := content.Copy(ctx, w, verifySeek(ctx, r, desc), desc.Size, desc.Digest); err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, err)
	}
	return nil
}

// verifySeek verifies what it can only read once; what can be read again (our own files, for a push that starts
// over) goes as it is, and the registry checks it.
func verifySeek(ctx context.Context, r io.Reader, desc ocispec.Descriptor) io.Reader {
	if _, ok := r.(io.Seeker); ok {
		return r
	}
	return Verify(ctx, r, desc)
}
