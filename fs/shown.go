package fs

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// shown is a layer as the server shows it.
type shown struct {
	id       uint32
	dataSize int64 // bytes of the address space
	layer    *layer.Layer
	image    *metadata.Image
	logger   *log.Entry
	faults   faults
	opaque   func() (dirs []string, only bool) // what has the xattr, and whether there is no other one
	refused  atomic.Bool                       // its contents are not what they should be: nobody reads them
	users    sync.WaitGroup                    // requests under way
	chain    atomic.Pointer[[]digest.Digest]   // the layers of the image of its last container, the topmost first
	topOf    atomic.Pointer[digest.Digest]     // manifest of the image that was last pulled whose topmost layer it is
	begun    begun                             // objects that were seen to for their programs
}

// newShown opens the metadata image of l. The caller closes l if it fails; else close does. Log lines about the layer
// say what ctx says.
func newShown(ctx context.Context, ref string, l *layer.Layer) (*shown, error) {
	st := l.Store()
	im, err := metadata.Open(st.MetadataPath())
	if err != nil {
		return nil, err
	}
	info := st.Info()
	return &shown{
		id:       info.ID,
		dataSize: info.DataSize,
		layer:    l,
		image:    im,
		opaque:   sync.OnceValues(func() ([]string, bool) { return im.PathsWith(opaqueXattr, maxOpaque) }),
		logger:   log.G(ctx).WithFields(log.Fields{"image": ref, "layer": st.Digest()}),
	}, nil
}

// chained are the layers of the image of its last container, the topmost first; the layer alone, if it had none.
func (l *shown) chained() []digest.Digest {
	if c := l.chain.Load(); c != nil {
		return *c
	}
	return []digest.Digest{l.layer.Store().Digest()}
}

// close ends the requests under way, which get an error if they wait for a registry, and closes the layer. The server
// must have let go of it before.
func (l *shown) close() error {
	err := l.layer.Close()
	l.users.Wait()
	return errors.Join(err, l.image.Close())
}
