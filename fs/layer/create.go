package layer

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// layoutMemory is how many bytes of memory a byte of compressed TOC takes until its metadata image is written, garbage
// included: measured with 126,000 files.
const layoutMemory = 16

// creation is a layer on its way from a TOC to the store.
type creation struct {
	scheduler *Scheduler
	turn      *entrant // with the memory that it takes
	info      cache.Info
	raw       *toc.Raw
	layout    *toc.Layout // of raw; nil once it was written
	tail      *tail
}

// extras are what is fetched of a blob along with its TOC. The zero value is nothing.
type extras struct {
	tail *tail
	head *head
}

// create brings a layer into the store by its TOC, and returns what else of the blob has come, or is coming: the caller stops that, or keeps it.
func create(ctx context.Context, o Options) (_ *cache.Layer, came extras, err error) {
	if o.TOCDigest == "" {
		return nil, extras{}, ErrNoTOC
	}
	came.head = newHead(ctx, o)
	defer func() {
		if err != nil {
			came.head.stop()
		}
	}()
	c, err := layOut(ctx, o, came.head)
	if err != nil {
		return nil, came, err
	}
	defer c.end()
	store, err := o.Store.Create(o.Digest, c.info, c.write)
	came.tail = c.tail
	if err == nil && o.Skeleton {
		_ = store.KeepTOC(c.raw.Compressed()) // without it more is fetched for Prove
	}
	return store, came, err
}

// layOut reads a TOC and lays it out, and once more, from another host if there is one, if what came is not what the
// digest says: it may have been damaged on its way. It starts h at the same time.
func layOut(ctx context.Context, o Options, h *head) (*creation, error) {
	r := &blobReader{ctx: withPriority(ctx, Demand), blob: o.Blob, begin: h.start}
	c, err := layOutOnce(r, o)
	var refused *toc.EntryError // by a TOC that is the right one
	if err == nil || r.failed || ctx.Err() != nil || errors.As(err, &refused) {
		return c, err
	}
	o.Blob.Distrust(r.host)
	h.forget()               // it may be from there too
	o.TOCPlace = toc.Place{} // which may be what is wrong
	if c, again := layOutOnce(r, o); again == nil || errors.As(again, &refused) {
		return c, again
	}
	return nil, err
}

// layOutOnce returns a creation that the caller ends.
func layOutOnce(r *blobReader, o Options) (*creation, error) {
	raw, err := fetchTOC(r, o)
	if err != nil {
		return nil, fmt.Errorf("read TOC: %w", err)
	}
	c := &creation{
		scheduler: o.Scheduler,
		raw:       raw,
		turn:      &entrant{priority: Demand, bytes: raw.Size() * layoutMemory, image: o.Ref},
		tail:      &tail{Blob: o.Blob, offset: raw.Tail.Offset, bytes: raw.Tail.Bytes},
	}
	if err := c.begin(r.ctx); err != nil {
		return nil, fmt.Errorf("read TOC: %w", err)
	}
	c.layout, err = raw.Layout()
	if err != nil {
		c.end()
		return nil, fmt.Errorf("read TOC: %w", err)
	}
	c.info = cache.Info{
		Format:         string(raw.Format),
		TOCDigest:      o.TOCDigest,
		BlobSize:       raw.BlobSize,
		PayloadSize:    raw.PayloadSize,
		DataSize:       c.layout.DataSize,
		PrefetchChunks: c.layout.PrefetchChunks,
	}
	if toc.ParseListed(o.PrefetchListed, c.layout.PrefetchChunks) != nil {
		c.info.PrefetchListed = o.PrefetchListed
	}
	return c, nil
}

// fetchTOC fetches a TOC as one more range that is waited for, so that all else leaves the link to it, and layers that are slow to come
// no place away.
func fetchTOC(r *blobReader, o Options) (*toc.Raw, error) {
	ranges, place := o.Scheduler.ranges, newHolder(Demand, o.Ref, toc.TailSize)
	if err := ranges.enter(r.ctx, place); err != nil {
		return nil, err
	}
	defer ranges.leave(place)
	r.begin()
	r.blob = lender{o.Blob, ranges, place}
	w := toc.Wanted{BlobSize: o.BlobSize, Digest: o.TOCDigest, Place: o.TOCPlace, Whole: o.Whole}
	if o.External != nil {
		w.External = func() (p []byte, err error) {
			ranges.quietly(place, func() { p, err = o.External(r.ctx) })
			r.failed = r.failed || err != nil
			return p, err
		}
	}
	return toc.Fetch(r, w)
}

// begin waits until there is memory for one more TOC.
func (c *creation) begin(ctx context.Context) error {
	if err := c.scheduler.layouts.enter(ctx, c.turn); err != nil {
		return err
	}
	c.scheduler.heap.begin()
	return nil
}

// end gives the memory back.
func (c *creation) end() {
	c.raw, c.layout = nil, nil
	c.scheduler.layouts.leave(c.turn)
	c.scheduler.heap.end(c.turn.bytes)
}

// write is what the store has its files from. It lets go of the layout on the way, to make room for what the image takes, so when the disk
// was full, and it is called again, there has to be another.
func (c *creation) write(meta *os.File, add func(cache.Chunk) error) (err error) {
	layout := c.layout
	c.layout = nil
	if layout == nil {
		if layout, err = c.raw.Layout(); err != nil {
			return err
		}
	}
	c.tail.chunks, c.tail.buffer = nil, 0
	for i, chunk := range layout.Chunks {
		if err := add(cache.Chunk(chunk)); err != nil {
			return err
		}
		c.tail.see(i, &chunk)
	}
	layout.Chunks = nil
	return layout.WriteMetadata(meta)
}
