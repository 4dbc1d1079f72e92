package layer

import (
	"bytes"
	"cmp"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// longLayer has one file of 128 chunks of 256 KiB, which do not compress.
var longLayer = sync.OnceValue(func() fixture {
	p := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(p)
	return build(map[string][]byte{"f": p}, estargz.WithChunkSize(256<<10), estargz.WithCompressionLevel(0))
})

// What a reader waits for when it goes through a file is less and less: the window ahead of it grows.
func TestFollow(t *testing.T) {
	h := open(t, longLayer(), nil)
	var ahead []int64 // most bytes asked for beyond the reader, after each step
	for i := range h.Store().NumChunks() {
		c := h.Store().Chunk(i)
		h.mustCheck(c.DataOffset, int(c.Size))
		h.flights.Wait()
		end := int64(0)
		for _, q := range h.blob.seen() {
			end = max(end, q.end())
		}
		ahead = append(ahead, end-c.BlobOffset-c.BlobSize)
	}
	noOverlap(t, h.blob.seen())
	if first := ahead[0]; first <= 0 || first > firstReadAhead {
		t.Errorf("%d bytes are read ahead of a first read, want up to %d", first, firstReadAhead)
	}
	if got := max(ahead[20], ahead[30]); got < 8<<20 {
		t.Errorf("the window is %d bytes after 8 MiB of reading: %v", got, ahead)
	}
	for _, q := range h.blob.seen() {
		if q.size > aheadRange+firstReadAhead {
			t.Errorf("range of %d bytes", q.size)
		}
	}
	if n := h.blob.demands(); n > 4 {
		t.Errorf("a sequential reader had to wait %d times", n)
	}
}

// Reads here and there bring what they ask for and the first read-ahead, and no more.
func TestFollowRandom(t *testing.T) {
	h := open(t, longLayer(), nil)
	n := h.Store().NumChunks()
	asked := int64(0)
	for i := range 8 {
		c := h.Store().Chunk((i*61 + 5) % n) // no two are neighbours
		h.mustCheck(c.DataOffset, 10)
		asked += c.BlobSize
	}
	h.flights.Wait()
	var brought int64
	for _, q := range h.blob.seen() {
		if q.priority != Demand {
			t.Errorf("%+v for readers that are not sequential", q)
		}
		brought += q.size
	}
	if brought > asked+8*firstReadAhead {
		t.Errorf("%d bytes were brought, %d asked for", brought, asked)
	}
}

// Who leaves out most of what it goes past brings what it reads and the first read-ahead, as whoever reads some of each chunk. Where only
// what is read is wanted, nobody's window grows far.
func TestFollowSparse(t *testing.T) {
	const little = 16 << 10
	for name, tt := range map[string]struct {
		sparse bool
		every  int   // reads of one in so many chunks
		n      int64 // bytes of each; 0: all
		follow bool
	}{
		"all of a sparse layer":              {true, 1, 0, true},
		"half of a sparse layer":             {true, 2, 0, true},
		"little of a sparse layer":           {true, 8, 0, false},
		"some of each chunk, sparse":         {true, 1, little, false},
		"all of a layer":                     {false, 1, 0, true},
		"half of a layer":                    {false, 2, 0, true},
		"little of a layer":                  {false, 8, 0, false},
		"some of each chunk":                 {false, 1, little, false},
		"some of some chunks":                {false, 2, little, false},
		"more than half of each chunk":       {false, 1, 140 << 10, true},
		"a quarter of each chunk":            {false, 1, 64 << 10, false},
		"the first byte of each chunk only":  {false, 1, 1, false},
		"more than half of each in a sparse": {true, 1, 140 << 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, longLayer(), func(o *Options) { o.Sparse = tt.sparse })
			h.blob.link = Link{RTT: time.Millisecond, Rate: 1e6} // what is read ahead at first is a chunk
			var ahead int64
			for i := 0; i < h.Store().NumChunks(); i += tt.every {
				c := h.Store().Chunk(i)
				h.mustCheck(c.DataOffset, int(min(cmp.Or(tt.n, c.Size), c.Size)))
				h.flights.Wait()
				for _, q := range h.blob.seen() {
					ahead = max(ahead, q.end()-c.BlobOffset-c.BlobSize)
				}
			}
			follows := slices.ContainsFunc(h.blob.seen(), func(q request) bool { return q.priority == Prefetch })
			if follows != tt.follow {
				t.Errorf("followed: %v, want %v", follows, tt.follow)
			}
			if small := ahead <= 2*sparseAhead*minReadAhead; small != (tt.sparse || !tt.follow) {
				t.Errorf("%d bytes are fetched ahead at most", ahead)
			}
		})
	}
}

// Who reads a chunk bit by bit, as the kernel does for a program, is followed as who reads it at once.
func TestFollowBitByBit(t *testing.T) {
	h := open(t, longLayer(), nil)
	for off := int64(0); off < int64(len(h.want)); off += 32 << 10 {
		h.mustCheck(off, 32<<10)
		h.flights.Wait()
	}
	if n := h.blob.demands(); n > 4 {
		t.Errorf("a sequential reader had to wait %d times", n)
	}
	noOverlap(t, h.blob.seen())
}

// Reading the same again fetches nothing more, however often.
func TestFollowAgain(t *testing.T) {
	h := open(t, longLayer(), func(o *Options) { o.Sparse = true })
	half := h.Store().NumChunks() / 2
	pass := func() (fetched int64) {
		h.blob.answer(nil)
		for i := range half {
			c := h.Store().Chunk(i)
			h.mustCheck(c.DataOffset, int(c.Size))
			h.flights.Wait()
		}
		for _, q := range h.blob.seen() {
			fetched += q.size
		}
		return fetched
	}
	pass()
	for range 3 {
		if n := pass(); n > 0 {
			t.Errorf("%d bytes are fetched for what was read before", n)
		}
	}
}

// What a reader left out long ago does not count: one that begins to read everything is followed soon, and one that ceases to is not for long.
func TestFollowForgets(t *testing.T) {
	const half = 64 // of the layer's chunks
	read := func(h *harness, from, to, every int) (waits int, ahead int64) {
		before := h.blob.demands()
		for i := from; i < to; i += every {
			c := h.Store().Chunk(i)
			h.mustCheck(c.DataOffset, int(c.Size))
			h.flights.Wait()
		}
		last := h.Store().Chunk(to - 1)
		for _, q := range h.blob.seen() {
			ahead = max(ahead, q.end()-last.BlobOffset-last.BlobSize)
		}
		return h.blob.demands() - before, ahead
	}
	t.Run("begins", func(t *testing.T) {
		h := open(t, longLayer(), nil)
		read(h, 0, half, 8)
		if waits, _ := read(h, half, 2*half, 1); waits > 4 {
			t.Errorf("it had to wait in %d of %d reads", waits, half)
		}
	})
	t.Run("ceases", func(t *testing.T) {
		h := open(t, longLayer(), func(o *Options) { o.Sparse = true }) // with a small window
		h.blob.link = Link{RTT: time.Millisecond, Rate: 1e6}
		read(h, 0, half, 1)
		h.blob.answer(nil)
		read(h, half, 2*half, 8)
		for _, q := range h.blob.seen() {
			if c := h.Store().Chunk(half + half/2); q.priority == Prefetch && q.off > c.BlobOffset {
				t.Errorf("%+v for one who has ceased to read everything 8 MiB ago", q)
			}
		}
	})
}

// Two that read one layer in different places have a window each.
func TestFollowTwo(t *testing.T) {
	h := open(t, longLayer(), nil)
	half := h.Store().NumChunks() / 2
	for i := range half {
		for _, chunk := range []int{i, half + i} {
			c := h.Store().Chunk(chunk)
			h.mustCheck(c.DataOffset, int(c.Size))
		}
		h.flights.Wait()
	}
	noOverlap(t, h.blob.seen())
	if n := h.blob.demands(); n > 8 {
		t.Errorf("two sequential readers had to wait %d times", n)
	}
	got := make([]byte, len(h.want))
	if _, err := h.Store().ReadAt(got, 0); err != nil || !bytes.Equal(got, h.want) {
		t.Errorf("wrong bytes, error %v", err)
	}
}

// What a single read brings besides is what the link brings in a round trip.
func TestReadAheadOfLink(t *testing.T) {
	for name, tt := range map[string]struct {
		link Link
		want int64
	}{
		"not known":       {Link{}, firstReadAhead},
		"near and slow":   {Link{RTT: time.Millisecond, Rate: 10e6}, minReadAhead},
		"20 ms, 100 MB/s": {Link{RTT: 20 * time.Millisecond, Rate: 100e6}, 2e6},
		"far and fast":    {Link{RTT: 200 * time.Millisecond, Rate: 1e9}, maxReadAhead},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, longLayer(), nil)
			h.blob.link = tt.link
			c := h.Store().Chunk(3)
			h.mustCheck(c.DataOffset, 10)
			q := h.blob.seen()
			if got := q[0].size; len(q) != 1 || got > max(tt.want, c.BlobSize) || got <= tt.want-c.BlobSize {
				t.Errorf("asked for %v, want one request of %d bytes, less than a chunk less", q, tt.want)
			}
		})
	}
}

// A file whose chunks are larger than the first window is read ahead of from its second chunk on too.
func TestFollowLargeChunks(t *testing.T) {
	p := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(p)
	h := open(t, build(map[string][]byte{"f": p}, estargz.WithChunkSize(4<<20), estargz.WithCompressionLevel(0)), nil)
	for i := range h.Store().NumChunks() {
		c := h.Store().Chunk(i)
		h.mustCheck(c.DataOffset, int(c.Size))
		h.flights.Wait()
	}
	noOverlap(t, h.blob.seen())
	if n := h.blob.demands(); n > 2 {
		t.Errorf("a sequential reader had to wait %d times", n)
	}
}
