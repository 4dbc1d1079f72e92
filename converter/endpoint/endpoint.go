// Package endpoint is the places that hold images: a registry, an OCI image layout in a folder, the same in a
// tar archive, and containerd's own stores.
//
// A Source is read by descriptor, a Target is written blob by blob and named last: until Tag has returned nil,
// nobody who looks the name up sees anything new. Sources and Targets may be used by several goroutines at once,
// except for Tag and Close, which come after everything else.
package endpoint

import (
	"context"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is one image in one place. String names it for people.
type Source interface {
	fmt.Stringer
	// Resolve returns the descriptor that the name stands for: a manifest's or an index's.
	Resolve(ctx context.Context) (ocispec.Descriptor, error)
	// Fetch opens a blob from its beginning. What it yields is not verified; see Verify.
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
	// ReaderAt opens a blob for reads at offsets; ctx governs them all. Each may be a request of its own.
	ReaderAt(ctx context.Context, desc ocispec.Descriptor) (ReaderAt, error)
	Close() error
}

// ReaderAt is a blob open for reads at offsets.
type ReaderAt interface {
	io.ReaderAt
	io.Closer
}

// Opener opens the content of a blob that is about to be pushed.
type Opener func() (io.ReadCloser, error)

// Target is one name in one place, to be given to a new image.
type Target interface {
	fmt.Stringer
	// Push puts a blob (or a manifest that another one refers to) there. When the target has it already, open is
	// not called. The content is checked against the descriptor before it counts as there.
	Push(ctx context.Context, desc ocispec.Descriptor, open Opener) error
	// Tag puts the root document there and gives it the name. Everything it refers to has been pushed.
	Tag(ctx context.Context, root ocispec.Descriptor, raw []byte) error
	// Close lets go of the target. Without a successful Tag it removes what Push left, where that can be told
	// apart from what was there before.
	Close() error
}
