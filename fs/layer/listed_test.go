package layer

import (
	"compress/gzip"
	"sync"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// hotLayer has 128 chunks of 64 KiB in the first file of its prefetch list, which do not compress.
var hotLayer = sync.OnceValue(func() fixture {
	files := testFiles()
	files[hotFile] = benchBytes(8 << 20)
	return build(files, estargz.WithCompressionLevel(gzip.NoCompression))
})

// wanted says which chunks of hotLayer are: runs of 16, with as long ones in between.
func wanted(chunk int) bool { return chunk/16%2 == 0 }

// openListed opens hotLayer with a list of the chunks that are wanted.
func openListed(t *testing.T) *harness {
	t.Helper()
	whole := open(t, hotLayer(), nil)
	listed := make(toc.Listed, whole.Store().Info().PrefetchChunks)
	for i := range listed {
		listed[i] = wanted(i)
	}
	return open(t, hotLayer(), func(o *Options) { o.PrefetchListed = listed.String() })
}

// Prefetch brings what the list has of files, and not what lies in between; Fill brings that too.
func TestPrefetchListed(t *testing.T) {
	h := openListed(t)
	if err := h.Prefetch(t.Context(), 1<<20, func() {
		for i := range 15 { // of 64 KiB and a header
			if !h.Store().Has(i) {
				t.Errorf("the beginning of the list is said to be there, chunk %d is not", i)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i := range h.Store().Info().PrefetchChunks {
		if h.Store().Has(i) != wanted(i) {
			t.Errorf("chunk %d is there: %t", i, h.Store().Has(i))
		}
	}
	for _, q := range h.blob.seen() {
		if q.size > 16*testChunk+16*1000 {
			t.Errorf("%+v is more than a run of the list", q)
		}
	}
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.mustCheck(0, len(h.want))
}

// What is expected of a program is not fetched where a list has left it out, unless somebody waits for it.
func TestExpectListed(t *testing.T) {
	h := openListed(t)
	c := h.Store().Chunk(0)
	h.Expect([]Extent{{c.DataOffset, 128 * testChunk}}, Demand)
	h.flights.Wait()
	for i := range h.Store().Info().PrefetchChunks {
		if i < 128 && h.Store().Has(i) != wanted(i) {
			t.Errorf("chunk %d is there: %t", i, h.Store().Has(i))
		}
	}
	at := h.Store().Chunk(16).DataOffset
	if n, err := h.ReadExpected(t.Context(), make([]byte, 100), at); n != 100 || err != nil {
		t.Errorf("%d bytes, error %v", n, err)
	}
}

// A slow link has ranges that read over little of what is not listed, a fast one such as read over more.
func TestPrefetchBridge(t *testing.T) {
	for rate, want := range map[float64]int64{0: 32 << 10, 25e6: 32 << 10, 100e6: 125_000, 1e10: 256 << 10} {
		h := open(t, hotLayer(), nil)
		h.blob.link = Link{Rate: rate}
		if got := h.prefetchBridge(); got != want {
			t.Errorf("%g bytes per second: %d bytes are read over, want %d", rate, got, want)
		}
	}
}

// What says nothing of as many chunks as there are before the landmark says nothing.
func TestPrefetchListedWrongly(t *testing.T) {
	for _, annotation := range []string{"1,2", "1,500,1", "x", "0,99999999999999999999"} {
		h := open(t, hotLayer(), func(o *Options) { o.PrefetchListed = annotation })
		if got := h.Store().Info().PrefetchListed; got != "" {
			t.Errorf("%q was stored", got)
		}
		if err := h.Prefetch(t.Context(), 0, nil); err != nil {
			t.Fatal(err)
		}
		for i := range h.Store().Info().PrefetchChunks {
			if !h.Store().Has(i) {
				t.Errorf("%q: chunk %d is missing", annotation, i)
			}
		}
	}
}

// A program that reads what the list has, from front to back, is not read ahead of with what it has not; who reads everything is.
func TestFollowListed(t *testing.T) {
	for name, all := range map[string]bool{"what is listed": false, "everything": true} {
		t.Run(name, func(t *testing.T) {
			h := openListed(t)
			var missed int
			for i := range h.Store().Info().PrefetchChunks {
				if !all && !wanted(i) {
					continue
				}
				c, before := h.Store().Chunk(i), h.blob.demands()
				h.mustCheck(c.DataOffset, int(c.Size))
				h.flights.Wait()
				if !wanted(i) && i > 40 && h.blob.demands() > before {
					missed++
				}
			}
			brought := 0
			for i := range h.Store().Info().PrefetchChunks {
				if !wanted(i) && h.Store().Has(i) {
					brought++
				}
			}
			switch {
			case all && missed > 2:
				t.Errorf("a reader of everything had to wait for %d chunks that are not listed", missed)
			case !all && brought > 2*16: // with the first read-ahead
				t.Errorf("%d chunks came that are not listed", brought)
			}
		})
	}
}
