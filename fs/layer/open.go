package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/sluice-snapshotter/sluice/cache"
)

// ErrNoTOC is returned by Open for a layer that is not in the store and whose TOC digest is not known: nothing could be
// verified.
var ErrNoTOC = errors.New("TOC digest is not known")

// Open opens a layer: from the store without the network, else by its TOC, which it fetches from the end of the blob
// and checks. What comes along with the TOC is stored in the background. The caller closes the layer.
func Open(ctx context.Context, o Options) (*Layer, error) {
	store, came, err := openStored(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open %s layer %s: %w", o.Ref, o.Digest, err)
	}
	return newLayer(ctx, o, store, came), nil
}

func openStored(ctx context.Context, o Options) (_ *cache.Layer, came extras, err error) {
	store, err := o.Store.Get(o.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		store, came, err = create(ctx, o)
	}
	if err != nil {
		return nil, extras{}, err
	}
	if have := store.Info().TOCDigest; o.TOCDigest != "" && have != o.TOCDigest {
		came.head.stop()
		return nil, extras{}, errors.Join(
			fmt.Errorf("layer in the store was made from TOC %s, the image names TOC %s", have, o.TOCDigest), store.Close())
	}
	return store, came, nil
}

// blobReader reads a blob for one call, whose context it carries.
type blobReader struct {
	ctx    context.Context
	blob   Blob
	begin  func() // called when it is time to read
	host   string // that answered last
	failed bool   // a read did
}

func (r *blobReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.readAt(p, off)
	r.failed = r.failed || err != nil
	return n, err
}

func (r *blobReader) readAt(p []byte, off int64) (int, error) {
	body, err := r.blob.ReadRange(r.ctx, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer body.Close()
	r.host = r.blob.Host()
	n, err := io.ReadFull(body, p)
	if err != nil {
		return n, fmt.Errorf("bytes %d+%d of the blob: %w", off, len(p), err)
	}
	return n, nil
}
