package fs

import (
	"errors"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/layer"
)

// bulky is a layer of incompressible files, size bytes together.
func bulky(t testing.TB, seed uint64, size int) blob {
	const piece = 300_000
	files := []file{dir("d")}
	for i := 0; size > 0; i++ {
		n := min(size, piece)
		files = append(files, regular(filepath.Join("d", string(rune('a'+i))), noise(seed*100+uint64(i), n)))
		size -= n
	}
	return buildBlob(t, files)
}

// bound sets a quota, with watermarks at 90 and 80 percent.
func (n *node) bound(limit int64) {
	n.store.SetQuota(cache.Quota{Limit: limit, High: limit / 10 * 9, Low: limit / 10 * 8}, n.MakeRoom)
}

// until waits for something that is to become true by itself.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after half a minute: %s", what)
		}
	}
}

// TestEvictIdle: beyond the quota goes what no container has, first what was not used for the longest time, and comes again when it is used.
func TestEvictIdle(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		old, held, fresh := bulky(t, 1, 1<<20), bulky(t, 2, 1<<20), bulky(t, 3, 1<<20)
		r := newRegistry(t, old, held, fresh)
		var evicted int64
		n := newNode(t, Options{Mode: mode, Background: true, Evicted: func(bytes int64) { evicted += bytes }})
		n.grace = 0
		n.bound(3 << 20)
		path := n.mountLayer(t, r.source(held))
		if err := n.Mount(t.Context(), r.source(old)); err != nil {
			t.Fatal(err)
		}
		until(t, "both layers are complete", func() bool {
			for _, s := range n.Status() {
				if s.State != Complete {
					return false
				}
			}
			return true
		})
		if err := n.Mount(t.Context(), r.source(fresh)); err != nil {
			t.Fatal(err)
		}
		until(t, "the old layer was removed", func() bool { return !n.Mounted(old.digest) })
		until(t, "the new layer is complete", func() bool { return n.status(t, fresh).State == Complete })
		if _, err := n.store.Get(old.digest); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("the store has the layer still: %v", err)
		}
		compare(t, path, held.files)
		if used := n.store.Used(); used > 3<<20 {
			t.Errorf("%d bytes are used", used)
		}
		n.relief <- struct{}{} // evicted is written under it
		if evicted < 1<<20 {
			t.Errorf("%d bytes are said to be evicted", evicted)
		}
		<-n.relief
		again := n.mountLayer(t, r.source(old))
		compare(t, again, old.files)
		compare(t, path, held.files)
	})
}

func (n *node) status(t testing.TB, l blob) Status {
	t.Helper()
	for _, s := range n.Status() {
		if s.Digest == l.digest {
			return s
		}
	}
	return Status{}
}

// TestEvictGrace: what a pull has just mounted is not removed before its container comes.
func TestEvictGrace(t *testing.T) {
	l := bulky(t, 1, 1<<20)
	r := newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	if err := n.Mount(t.Context(), r.source(l)); err != nil {
		t.Fatal(err)
	}
	n.bound(1)
	n.MakeRoom()
	if !n.Mounted(l.digest) {
		t.Fatal("a layer that was just mounted was removed")
	}
	n.relief <- struct{}{} // who looks for the end of a grace holds it
	n.grace = 0
	<-n.relief
	n.MakeRoom()
	if n.Mounted(l.digest) {
		t.Error("an idle layer stays")
	}
}

// TestQuotaInUse: a container reads all of a layer that is larger than the quota, again and again, with background fetching or without.
func TestQuotaInUse(t *testing.T) {
	for _, background := range []bool{false, true} {
		inModes(t, func(t *testing.T, mode Mode) {
			l := bulky(t, 1, 5<<20)
			r := newRegistry(t, l)
			const limit = 2 << 20
			var n *node
			var most int64
			var mu sync.Mutex
			n = newNode(t, Options{Mode: mode, Background: background, Observer: layer.Observer{Fetched: func(layer.Range) {
				mu.Lock()
				defer mu.Unlock()
				most = max(most, n.store.Used())
			}}})
			n.bound(limit)
			path := n.mountLayer(t, r.source(l))
			for range 3 {
				compare(t, path, l.files)
				dropCaches(t)
			}
			mu.Lock()
			defer mu.Unlock()
			if most > limit || most < limit/2 {
				t.Errorf("at most %d bytes were used, of %d", most, limit)
			}
			if n.store.Trouble() != nil {
				t.Error(n.store.Trouble())
			}
			if s := n.status(t, l); s.State == Failed {
				t.Errorf("status is %+v", s)
			}
		})
	}
}

// TestQuotaNative: what a native mount has is not touched, and above the low watermark no layer gets one.
func TestQuotaNative(t *testing.T) {
	inNativeModes(t, func(t *testing.T, mode Mode) {
		first, second := bulky(t, 1, 1<<20), bulky(t, 2, 1<<20)
		r := newRegistry(t, first, second)
		n := newNode(t, Options{Mode: mode, Background: true})
		if err := n.Mount(t.Context(), r.source(first)); err != nil {
			t.Fatal(err)
		}
		n.settled(t, first)
		native := n.path(t, first, "container")
		n.bound(3 << 20)
		n.store.SetQuota(cache.Quota{Limit: 3 << 20, High: 3 << 20, Low: 1 << 20}, nil)
		if err := n.Mount(t.Context(), r.source(second)); err != nil {
			t.Fatal(err)
		}
		lazy := n.path(t, second, "container")
		until(t, "the second layer is complete", func() bool { return n.status(t, second).State == Complete })
		if s := n.status(t, second); s.Mount() != erofsOnFUSE {
			t.Errorf("above the low watermark a complete layer is mounted as %s", s.Mount())
		}
		n.bound(10)
		n.grace = 0
		n.MakeRoom()
		if s := n.status(t, first); s.State != Complete {
			t.Errorf("contents of a native mount were taken: %+v", s)
		}
		if s := n.status(t, second); s.Fetched != 0 {
			t.Errorf("contents of a lazy mount stay: %+v", s)
		}
		n.bound(100 << 20)
		dropCaches(t)
		compare(t, native, first.files)
		compare(t, lazy, second.files)
	})
}

// TestQuotaChurn: layers are mounted, read and left while the store has room for a third of them.
func TestQuotaChurn(t *testing.T) {
	blobs := make([]blob, 6)
	for i := range blobs {
		blobs[i] = bulky(t, uint64(i+1), 1<<20)
	}
	r := newRegistry(t, blobs...)
	n := newNode(t, Options{Background: true})
	n.grace = 0
	n.bound(3 << 20)
	var g sync.WaitGroup
	for worker := range 3 {
		rnd := rand.New(rand.NewPCG(uint64(worker), 1))
		g.Go(func() {
			for turn := range 10 {
				l := blobs[rnd.IntN(len(blobs))]
				holder := string(rune('a'+worker)) + string(rune('a'+turn))
				if err := n.Mount(t.Context(), r.source(l)); err != nil && !errors.Is(err, cache.ErrFull) {
					t.Error(err)
				}
				path, err := n.Path(l.digest, holder)
				if errors.Is(err, iofs.ErrNotExist) {
					continue // without grace it may be gone again
				}
				if err != nil {
					t.Error(err)
					continue
				}
				for _, f := range l.files[1:] {
					got, err := os.ReadFile(filepath.Join(path, f.Name))
					if err != nil || string(got) != string(f.data) {
						t.Errorf("%s: %d bytes, %v", f.Name, len(got), err)
					}
				}
				n.Drop(holder)
			}
		})
	}
	g.Wait()
	if used := n.store.Used(); used > 3<<20 {
		t.Errorf("%d bytes are used", used)
	}
}

// TestQuotaPlain: a plain layer that does not fit is refused, and leaves nothing.
func TestQuotaPlain(t *testing.T) {
	small, smallID := plainBlob(t, regular("a", noise(1, 500_000)))
	large, largeID := plainBlob(t, regular("a", noise(2, 3<<20)))
	r := newRegistry(t, small, large)
	n := newNode(t, Options{})
	n.bound(2 << 20)
	path := n.mountLayer(t, r.bottom(small, smallID))
	before := n.store.Used()
	if err := n.Mount(t.Context(), r.bottom(large, largeID)); !errors.Is(err, cache.ErrFull) {
		t.Errorf("mounted: %v", err)
	}
	if got := n.store.Used(); got != before {
		t.Errorf("%d bytes are used after that, %d before", got, before)
	}
	compare(t, path, small.files)
	n.bound(20 << 20)
	compare(t, n.mountLayer(t, r.bottom(large, largeID)), large.files)
}

// TestMendWithoutRoom: a plain layer that nobody has and the disk has lost some of is not removed to make room for its own return.
func TestMendWithoutRoom(t *testing.T) {
	l, diffID := plainBlob(t, regular("first", noise(1, 3<<20)), regular("last", noise(2, 5<<20)))
	root := t.TempDir()
	r := newRegistry(t, l)
	n := openNode(t, root, Options{Mode: FUSE})
	n.mountLayer(t, r.bottom(l, diffID))
	n.close(t)
	crash(t, filepath.Join(root, "root", "layers"), l.digest, 6<<20)

	n = openNode(t, root, Options{Mode: FUSE})
	n.settling, n.grace = 0, 0
	n.bound(n.store.Used() + 1<<20)
	before := r.asked(l.digest)
	if err := n.Mount(t.Context(), Source{Ref: r.ref, Digest: l.digest, Manifest: r.manifest, DiffID: diffID, Held: true}); err != nil {
		t.Fatal(err)
	}
	until(t, "the layer is asked for again", func() bool { return r.asked(l.digest) > before })
	until(t, "nobody makes room", func() bool {
		select {
		case n.relief <- struct{}{}:
			<-n.relief
			return true
		default:
			return false
		}
	})
	n.close(t) // which ends
}

// TestShedClosing: room is made while a layer goes, as after containerd's garbage collection.
func TestShedClosing(t *testing.T) {
	l := bulky(t, 1, 1<<20)
	r := newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE, Background: true})
	for range 100 {
		n.bound(100 << 20)
		n.mountLayer(t, r.source(l)) // a container has it: it sheds
		until(t, "the layer is complete", func() bool { return n.status(t, l).State == Complete })
		n.bound(1)
		var g sync.WaitGroup
		g.Go(n.MakeRoom)
		if err := n.Unmount(t.Context(), l.digest); err != nil {
			t.Fatal(err)
		}
		g.Wait()
	}
}

// TestQuotaWithoutMargin: where the high watermark is the limit, what readers want is stored all the same.
func TestQuotaWithoutMargin(t *testing.T) {
	l := bulky(t, 1, 5<<20)
	r := newRegistry(t, l)
	var evicted atomic.Int64
	n := newNode(t, Options{Mode: FUSE, Evicted: func(bytes int64) { evicted.Add(bytes) }})
	n.store.SetQuota(cache.Quota{Limit: 2 << 20, High: 2 << 20, Low: 1 << 20}, n.MakeRoom)
	path := n.mountLayer(t, r.source(l))
	compare(t, path, l.files)
	until(t, "contents were taken away", func() bool { return evicted.Load() > 0 })
}

// TestHardSpares: what has to be stored takes from a container's layer what it needs, and not much more.
func TestHardSpares(t *testing.T) {
	l, next := bulky(t, 1, 5<<20), bulky(t, 2, 1<<20)
	r, another := newRegistry(t, l), newRegistry(t, next)
	n := newNode(t, Options{Mode: FUSE})
	compare(t, n.mountLayer(t, r.source(l)), l.files)
	had, limit := n.status(t, l).Fetched, n.store.Used()+1
	n.store.SetQuota(cache.Quota{Limit: limit, High: limit, Low: limit / 2}, n.MakeRoom)
	n.mountLayer(t, another.source(next))
	n.relief <- struct{}{} // the alarm's round is over, or finds nothing to do
	defer func() { <-n.relief }()
	if has := n.status(t, l).Fetched; has == had || has < had-1<<20 {
		t.Errorf("%d of %d bytes are there", has, had)
	}
}

// TestPruneGrace: what a pull has brought, mounted or ahead of its turn, is not pruned before its container comes; what a container has had is.
func TestPruneGrace(t *testing.T) {
	l, ahead := bulky(t, 1, 100_000), bulky(t, 2, 100_000)
	r := newRegistry(t, l, ahead)
	n := newNode(t, Options{Mode: FUSE})
	if err := n.Mount(t.Context(), r.source(l)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.bring(t.Context(), r.source(ahead)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{l.digest, ahead.digest} {
		if _, err := n.Prune(t.Context(), d); !errors.Is(err, ErrInUse) {
			t.Errorf("pruned during the pull: %v", err)
		}
	}
	n.path(t, l, "container")
	if _, err := n.Prune(t.Context(), l.digest); !errors.Is(err, ErrInUse) {
		t.Errorf("pruned while a container has it: %v", err)
	}
	n.Drop("container")
	n.grace = 0
	if _, err := n.Prune(t.Context(), ahead.digest); err != nil {
		t.Error(err)
	}
	n.grace = evictGrace
	if _, err := n.Prune(t.Context(), l.digest); err != nil {
		t.Errorf("not pruned after the container: %v", err)
	}
	if left, err := n.store.List(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := n.Remove(t.Context(), l.digest); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("removed again: %v", err)
	}
}
