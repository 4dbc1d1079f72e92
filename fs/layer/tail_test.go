package layer

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"runtime"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// openTail opens f with memory for its tail, and does not forget the requests.
func openTail(t *testing.T, f fixture, change func(*Options)) *harness {
	t.Helper()
	s := newStore(t)
	o := f.options(t, s)
	o.Scheduler = NewScheduler(SchedulerOptions{})
	if change != nil {
		change(&o)
	}
	t.Cleanup(func() { // after the layer was closed
		if left := o.Scheduler.tails.left; left != defaultMemoryLimit/8 {
			t.Errorf("%d bytes of the budget were not given back", defaultMemoryLimit/8-left)
		}
	})
	return openWith(t, f, o)
}

func smallLayer() fixture {
	files := testFiles()
	delete(files, bigFile)
	for name, p := range files {
		files[name] = p[:len(p)/8]
	}
	return build(files, estargz.WithCompressionLevel(gzip.BestSpeed))
}

// TestTailOfSmallLayer: what came whole with its TOC is not fetched again.
func TestTailOfSmallLayer(t *testing.T) {
	h := openTail(t, smallLayer(), nil)
	<-h.ExtrasStored()
	if !h.Store().Complete() {
		t.Error("not complete")
	}
	h.mustCheck(0, len(h.want))
	if err := h.Fill(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(h.blob.seen()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestTailBeforeFlight: who found a chunk missing just before the tail was stored has it from there after that.
func TestTailBeforeFlight(t *testing.T) {
	s := NewScheduler(SchedulerOptions{})
	empty := crowd(t, s.cores)
	h := openTail(t, smallLayer(), func(o *Options) { o.Scheduler = s })
	h.mu.Lock()
	all := make([]int, h.Store().NumChunks())
	for i := range all {
		all[i] = i
	}
	f := h.launch(h.life, h.spans(all, bounds{demandRange, bridge})[0], Demand)
	h.mu.Unlock()
	empty()
	for !h.Store().Complete() {
		runtime.Gosched()
	}
	h.fly(f)
	<-h.ExtrasStored()
	for _, p := range f.pending {
		if !p.settled() || p.err != nil {
			t.Errorf("chunk %d: settled %t, %v", p.chunk, p.settled(), p.err)
		}
	}
	if n := len(h.blob.seen()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestTailOfLayer: of other layers it is the last files, in every format.
func TestTailOfLayer(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			h := openTail(t, f(), nil)
			<-h.ExtrasStored()
			first := h.Store().NumChunks()
			for h.Store().Has(first - 1) {
				first--
			}
			seen := h.blob.seen()
			if present, _ := h.Store().Present(); present == 0 || present != h.Store().NumChunks()-first {
				t.Fatalf("%d chunks are present, of %d after the first of them", present, h.Store().NumChunks()-first)
			}
			if before := h.Store().Chunk(first - 1); before.BlobOffset >= seen[0].off {
				t.Errorf("chunk %d at %d is missing, bytes from %d on came", first-1, before.BlobOffset, seen[0].off)
			}
			off := h.Store().Chunk(first).DataOffset
			h.mustCheck(off, len(h.want)-int(off))
			if n := len(h.blob.seen()); n != 1 {
				t.Errorf("%d requests", n)
			}
			if err := h.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.mustCheck(0, len(h.want))
		})
	}
}

// TestTailInMemory reads and prefetches what is not in the store yet.
func TestTailInMemory(t *testing.T) {
	s := NewScheduler(SchedulerOptions{})
	s.cores.places[Demand]++ // of one core background has what there is
	empty := crowd(t, s.cores)
	h := openTail(t, smallLayer(), func(o *Options) { o.Scheduler = s })
	if h.Store().Complete() {
		t.Fatal("complete while nothing may decode")
	}
	h.mustCheck(0, len(h.want)) // as demand, which may
	if n := len(h.blob.seen()); n != 1 {
		t.Errorf("%d requests", n)
	}
	empty()
	<-h.ExtrasStored()
}

// crowd takes all places that background has at a gate, until empty is called.
func crowd(t *testing.T, g *gate) (empty func()) {
	t.Helper()
	var inside []*entrant
	for range g.places[Background] {
		e := &entrant{priority: Background}
		if err := g.enter(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		inside = append(inside, e)
	}
	return func() {
		for _, e := range inside {
			g.leave(e)
		}
	}
}

func TestTailIsGivenUpByClose(t *testing.T) {
	s := NewScheduler(SchedulerOptions{})
	empty := crowd(t, s.cores)
	h := openTail(t, smallLayer(), func(o *Options) { o.Scheduler = s })
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	<-h.ExtrasStored()
	empty()
}

func TestTailWithoutRoom(t *testing.T) {
	f := smallLayer()
	h := open(t, f, nil) // whose budget is none
	<-h.ExtrasStored()
	h.mustCheck(0, len(h.want))
	if n := len(h.blob.seen()); n == 0 {
		t.Error("contents came without a request")
	}
}

// TestWrongTail has bytes before the TOC that are not what the TOC says: they are fetched again.
func TestWrongTail(t *testing.T) {
	for _, level := range []int{gzip.NoCompression, gzip.BestSpeed} {
		files := testFiles()
		delete(files, bigFile)
		for name, p := range files {
			files[name] = p[:len(p)/16]
		}
		f := build(files, estargz.WithCompressionLevel(level))
		h := openTail(t, f, func(o *Options) {
			b := o.Blob.(*fake)
			b.serve = func(_ context.Context, n int, q request) (io.ReadCloser, error) {
				p := bytes.Clone(b.data[q.off:q.end()])
				if n == 0 {
					for i := 100; i < len(p)/2; i += 1000 {
						p[i] ^= 0xff
					}
				}
				return b.body(bytes.NewReader(p)), nil
			}
		})
		<-h.ExtrasStored()
		if h.Store().Complete() {
			t.Fatal("complete with wrong bytes")
		}
		h.mustCheck(0, len(h.want))
		if n := len(h.blob.seen()); n < 2 {
			t.Errorf("level %d: %d requests", level, n)
		}
	}
}
