package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/metadata"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// ErrClosed is the error of what was under way when the layer was closed, and of all that comes after.
var ErrClosed = errors.New("layer is closed")

// Blob is the compressed layer, somewhere else. *remote.Blob is one.
type Blob interface {
	// ReadRange yields size bytes from off on, or an error; less is an error too. Its context carries a Priority.
	// The reader is closed early when its bytes are no longer needed.
	ReadRange(ctx context.Context, off, size int64) (io.ReadCloser, error)
	Host() string         // who answered last, for messages
	Distrust(host string) // has sent wrong bytes: ask it last from now on
	Link() Link           // the way to who answered last
}

// Link is what the way to a blob is like, as far as that is known: zero means not.
type Link struct {
	RTT      time.Duration // from a request to the first byte
	Rate     float64       // bytes per second, of all requests together
	Requests int           // how many the host lets be under way, after it was asked too much; 0: it has not said
}

// Options says which layer to open.
type Options struct {
	Ref       string        // image reference, for messages
	Digest    digest.Digest // of the blob
	Store     *cache.Store
	Scheduler *Scheduler
	Blob      Blob
	BlobSize  int64         // bytes; needed only where the store does not have the layer
	TOCDigest digest.Digest // "" if not known: then only a layer that the store has can be opened
	TOCPlace  toc.Place     // where the image's manifest says that the TOC lies; zero: not said
	Whole     bool          // fetch all of the blob along with its TOC, if it is small
	// PrefetchListed is the toc.PrefetchAnnotation of a layer that is not in the store yet; "" for none.
	PrefetchListed string
	// PrefetchSize is how many of the blob's first bytes have its prefetch list, for a layer that is not in the store yet: they are asked for along
	// with the TOC. 0 if not known.
	PrefetchSize int64
	// External gets the TOC, as compressed, of a layer that has it elsewhere; nil if nobody knows.
	External func(ctx context.Context) ([]byte, error)
	// Skeleton says that what the layer's tar has besides chunks is to be kept as it comes, for Prove.
	Skeleton bool
	// Sparse says that the layer is not filled: readers are followed by little, as what they do not come to would be fetched for nobody.
	Sparse   bool
	Observer Observer
}

// Layer is an open layer.
type Layer struct {
	ref       string
	store     *cache.Layer
	scheduler *Scheduler
	blob      Blob
	format    toc.Format
	observer  Observer
	skeleton  bool // see Options
	sparse    bool // see Options

	// life ends when the layer is closed. Calls hold alive for reading, so Close waits for them, and flights begin only
	// under it.
	life    context.Context
	end     context.CancelCauseFunc
	alive   sync.RWMutex
	flights sync.WaitGroup // those that have a goroutine of their own
	storing sync.WaitGroup // what came along with the TOC
	stored  chan struct{}  // see ExtrasStored

	cursors cursors
	row     row
	listed  toc.Listed // what of the first chunks is on the prefetch list

	foreseen atomic.Bool // see Foreseen

	mu       sync.Mutex
	pending  map[int]*pending // chunks in flight
	lastErr  error
	uncopied map[int]bool // chunks that other layers seemed to have
}

// Status is the state of a layer at one moment.
type Status struct {
	Digest   digest.Digest
	Format   string // as fs/toc names it
	Size     int64  // uncompressed bytes of all chunks
	Fetched  int64  // of those, how many are in the store
	Complete bool   // all are
	Err      error  // why the range that ended last is not all in the store; nil if it is
}

func newLayer(ctx context.Context, o Options, store *cache.Layer, came extras) *Layer {
	info := store.Info()
	l := &Layer{
		ref:       o.Ref,
		store:     store,
		scheduler: o.Scheduler,
		blob:      o.Blob,
		format:    toc.Format(info.Format),
		observer:  o.Observer,
		skeleton:  o.Skeleton && info.DiffID == "",
		sparse:    o.Sparse,
		stored:    make(chan struct{}),
		listed:    toc.ParseListed(info.PrefetchListed, info.PrefetchChunks),
		pending:   make(map[int]*pending),
		uncopied:  make(map[int]bool),
	}
	l.life, l.end = context.WithCancelCause(context.WithoutCancel(ctx))
	if came.tail != nil { // it is new: what others have of it is found out before somebody reads it
		l.flights.Go(func() { l.endCopies(store.Sources()) })
	}
	l.keep(came)
	return l
}

// keep has extras stored, in the background, and stand before the blob until then.
func (l *Layer) keep(came extras) {
	var storing []func()
	if t := came.tail; t.fits(l.scheduler) {
		l.blob = t
		storing = append(storing, func() { l.keepTail(t) })
	}
	if h := came.head; h != nil {
		h.Blob = l.blob
		l.blob = h
		storing = append(storing, func() { l.keepHead(h) })
	}
	for _, store := range storing { // which may use l.blob
		store()
	}
	l.flights.Go(func() {
		l.storing.Wait()
		close(l.stored)
	})
}

// ExtrasStored is closed when what was fetched along with the TOC is in the store, or is given up: at once for a layer that was in the store
// before.
func (l *Layer) ExtrasStored() <-chan struct{} { return l.stored }

// begin lets a call in, which ends with l.alive.RUnlock.
func (l *Layer) begin() error {
	if l.life.Err() != nil {
		return l.wrap("use", ErrClosed) // without waiting for Close
	}
	l.alive.RLock()
	if l.life.Err() != nil {
		l.alive.RUnlock()
		return l.wrap("use", ErrClosed)
	}
	return nil
}

// Close ends what is under way, waits for it, and gives the layer back to its store. Calls under way end with ErrClosed.
// It is called once.
func (l *Layer) Close() error {
	l.end(ErrClosed)
	l.alive.Lock()
	defer l.alive.Unlock()
	l.flights.Wait()
	return l.store.Close()
}

// Store returns the layer in the store, valid until Close.
func (l *Layer) Store() *cache.Layer { return l.store }

// Status returns the layer's state. After Close only its digest and format are told.
func (l *Layer) Status() Status {
	s := Status{Digest: l.store.Digest(), Format: string(l.format)}
	if err := l.begin(); err != nil {
		s.Err = err
		return s
	}
	defer l.alive.RUnlock()
	_, s.Fetched = l.store.Present()
	s.Size, s.Complete = l.store.Size(), l.store.Complete()
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Err = l.lastErr
	return s
}

// wrap says which layer of which image an error is about.
func (l *Layer) wrap(op string, err error) error {
	return fmt.Errorf("%s %s layer %s: %w", op, l.ref, l.store.Digest(), err)
}

// wrapAt also says which file: the one that has byte off of the address space. It searches the metadata image.
func (l *Layer) wrapAt(op string, off int64, err error) error {
	image, openErr := metadata.Open(l.store.MetadataPath())
	if openErr != nil {
		return l.wrap(op, err) // the layer was removed: its name has to do
	}
	defer image.Close()
	if path, ok := image.PathAt(off); ok {
		return l.wrap(fmt.Sprintf("%s %q of", op, path), err)
	}
	return l.wrap(op, err)
}

// blame says that whoever answered last has sent wrong bytes, and returns who it was.
func (l *Layer) blame() string {
	host := l.blob.Host()
	l.blob.Distrust(host)
	l.observer.verifyFailure(host)
	return host
}
