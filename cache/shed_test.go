package cache

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const none = 1 << 62

func nothing(int) bool { return false }

func dataOnDisk(t *testing.T, l *Layer) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(l.DataPath(), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// What is shed is absent, its blocks are free, and it can be stored again.
func TestShed(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 1<<20, 5000, 1<<20, 100, 1<<20)
	l := smp.create(t, store)
	before := store.Used()
	smp.put(t, l, 0, 1, 2, 4)
	if got := store.Used() - before; got != 3<<20+8192 {
		t.Errorf("charged with %d bytes for the chunks", got)
	}
	freed, err := l.Shed(1 << 20)
	if err != nil || freed != 1<<20 {
		t.Fatalf("freed %d, %v, want 1 MiB", freed, err)
	}
	smp.check(t, l, 1, 2, 4)
	if got := dataOnDisk(t, l); got != 2<<20+8192 {
		t.Errorf("the data file has %d bytes on disk", got)
	}
	if !l.HasShed() {
		t.Error("the layer does not say that it has shed")
	}
	if freed, err = l.Shed(none); err != nil || freed != 2<<20+8192 {
		t.Fatalf("freed %d, %v", freed, err)
	}
	smp.check(t, l)
	if got := store.Used(); got != before || dataOnDisk(t, l) > 4096 { // the file system's own
		t.Errorf("%d bytes are used, %d before; the data file has %d", got, before, dataOnDisk(t, l))
	}
	smp.put(t, l, 0, 1, 2, 3, 4)
	smp.check(t, l, 0, 1, 2, 3, 4)
	if n, err := l.Usage(); err != nil || n != store.Used() {
		t.Errorf("the layer takes %d bytes (%v), the store counts %d", n, err, store.Used())
	}
	closeAll(t, l, store)
}

// Blocks that a chunk shares with its neighbours in the same file keep the neighbours' bytes.
func TestShedSharedBlocks(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 5000)
	whole := smp.data[0]
	smp.data, smp.chunks = nil, nil
	for _, part := range [][2]int64{{0, 1500}, {1500, 2900}, {2900, 5000}} { // as of a file with such chunks
		p := whole[part[0]:part[1]]
		smp.data = append(smp.data, p)
		smp.chunks = append(smp.chunks, Chunk{
			DataOffset: part[0], Size: part[1] - part[0], BlobOffset: part[0], BlobSize: 10, Digest: sha256Sums.of(p),
		})
	}
	l := smp.create(t, store)
	smp.put(t, l, 0, 1, 2)
	if _, err := l.discard([]int{1}); err != nil {
		t.Fatal(err)
	}
	smp.check(t, l, 0, 2)
	closeAll(t, l, store)
}

// Of what is read while the store is not spacious, what was read last stays longest.
func TestShedByUse(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 4096, 4096, 4096, 4096)
	l := smp.create(t, store)
	store.SetQuota(Quota{Limit: none, High: none, Low: 1}, nil)
	smp.put(t, l, 0, 1, 2, 3)
	read := func(i int) {
		t.Helper()
		got := make([]byte, 4096)
		if _, ok, err := l.ReadHeld(got, smp.chunks[i].DataOffset, nothing); !ok || err != nil || !bytes.Equal(got, smp.data[i]) {
			t.Fatalf("chunk %d: held %v, %v", i, ok, err)
		}
	}
	shed := func() {
		t.Helper()
		if _, err := l.Shed(4096); err != nil {
			t.Fatal(err)
		}
	}
	read(0)
	read(2)
	shed()
	smp.check(t, l, 0, 2, 3)
	shed()
	smp.check(t, l, 0, 2)
	read(2)
	shed()
	smp.check(t, l, 2)
	closeAll(t, l, store)
}

// Nothing is taken of what a native mount may have, nor of plain layers, nor of what is pinned.
func TestShedNothing(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	refuse := func(l *Layer) {
		t.Helper()
		if n, err := l.Shed(none); n != 0 || err != nil {
			t.Errorf("%d bytes were taken, %v", n, err)
		}
	}
	sealed := newSample("sealed", 4096)
	s := sealed.create(t, store)
	sealed.put(t, s, 0)
	if err := s.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	refuse(s)
	sealed.check(t, s, 0)

	pinned := newSample("pinned one", 4096)
	p := pinned.create(t, store)
	pinned.put(t, p, 0)
	unpin := p.Pin()
	refuse(p)
	pinned.check(t, p, 0)
	unpin()
	if n, err := p.Shed(none); n != 4096 || err != nil {
		t.Errorf("%d bytes were taken, %v", n, err)
	}

	plain, err := store.Fill(newSample("a plain one").digest, func(f *Filling) (Info, error) {
		_, err := f.WriteAt([]byte("contents"), 0)
		return Info{Format: "tar", DataSize: 4096, BlobSize: 10}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	refuse(plain)
	if !plain.Complete() {
		t.Error("a plain layer lost chunks")
	}
	closeAll(t, s, p, plain, store)
}

// Claims of an earlier boot are shed as well: they take room.
func TestShedClaims(t *testing.T) {
	root := t.TempDir()
	smp := newSample("layer", 4096, 4096)
	store := openStore(t, root, bootA)
	l := smp.create(t, store)
	smp.put(t, l, 0, 1)
	closeAll(t, l, store)
	store = openStore(t, root, bootB)
	l, err := store.Get(smp.digest)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := l.Shed(none); n != 8192 || err != nil {
		t.Errorf("%d bytes were taken, %v", n, err)
	}
	smp.check(t, l)
	closeAll(t, l, store)
}

// Readers, writers and Shed at once: whoever is told that a range is held gets its bytes.
func TestShedConcurrently(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	sizes := make([]int, 64)
	for i := range sizes {
		sizes[i] = 1 + i*777%20_000
	}
	smp := newSample("layer", sizes...)
	l := smp.create(t, store)
	store.SetQuota(Quota{Limit: none, High: none, Low: 1}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var g sync.WaitGroup
	for n := range 6 {
		rnd := rand.New(rand.NewPCG(uint64(n), 1))
		g.Go(func() {
			for ctx.Err() == nil {
				i := rnd.IntN(len(sizes))
				got := make([]byte, sizes[i])
				switch _, ok, err := l.ReadHeld(got, smp.chunks[i].DataOffset, nothing); {
				case n == 0:
					if _, err := l.Shed(int64(rnd.IntN(100_000))); err != nil {
						t.Error(err)
					}
				case err != nil:
					t.Error(err)
				case !ok:
					if err := l.Put(i, smp.data[i]); err != nil {
						t.Error(err)
					}
				case !bytes.Equal(got, smp.data[i]):
					t.Errorf("chunk %d reads wrong", i)
					cancel()
				}
			}
		})
	}
	g.Wait()
	l.recount()
	if n, err := l.Usage(); err != nil || n != store.Used() {
		t.Errorf("the layer takes %d bytes (%v), the store counts %d", n, err, store.Used())
	}
	closeAll(t, l, store)
}

func TestQuota(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 8192, 8192, 8192)
	l := smp.create(t, store)
	base := store.Used()
	store.SetQuota(Quota{Limit: base + 16384, High: base + 16384, Low: base + 8192}, nil)
	if !store.Spacious() || store.budget.crowded() {
		t.Error("an empty store is not spacious")
	}
	smp.put(t, l, 0)
	if store.Spacious() || store.budget.crowded() {
		t.Error("between the watermarks a store is neither spacious nor crowded")
	}
	select {
	case <-store.Pressed():
		t.Error("pressed below the high watermark")
	default:
	}
	smp.put(t, l, 1)
	<-store.Pressed()
	err := l.Put(2, smp.data[2])
	if !errors.Is(err, ErrFull) || !errors.Is(err, ErrNotStored) {
		t.Errorf("beyond the limit: %v", err)
	}
	if store.Trouble() != nil {
		t.Errorf("a quota is no trouble: %v", store.Trouble())
	}
	if l.Has(2) || store.Used() != base+16384 {
		t.Errorf("%d bytes are used", store.Used())
	}
	waiting := make(chan error)
	go func() { waiting <- store.AwaitRoom(t.Context()) }()
	select {
	case err := <-waiting:
		t.Fatalf("there is room in a crowded store: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	if _, err := l.Shed(8192); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	smp.put(t, l, 2)
	closeAll(t, l)
	if err := store.Remove(smp.digest); err != nil {
		t.Fatal(err)
	}
	if store.Used() != 0 {
		t.Errorf("an empty store uses %d bytes", store.Used())
	}
	closeAll(t, store)
}

// Who can wait has room made: without, nothing is left of what was half-made.
func TestQuotaHard(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	old := newSample("an old one", 1<<20)
	l := old.create(t, store)
	old.put(t, l, 0)
	closeAll(t, l)
	used := store.Used()
	fill := func() (*Layer, error) {
		return store.Fill(newSample("a plain one").digest, func(f *Filling) (Info, error) {
			p := bytes.Repeat([]byte("x"), 1<<20)
			for off := int64(0); off < 8<<20; off += int64(len(p)) {
				if _, err := f.WriteAt(p, off); err != nil {
					return Info{}, err
				}
			}
			return Info{Format: "tar", DataSize: 8 << 20, BlobSize: 10}, nil
		})
	}
	limit := int64(8<<20 + 100_000)
	store.SetQuota(Quota{Limit: limit, High: limit, Low: limit}, nil)
	if _, err := fill(); !errors.Is(err, ErrFull) || !errors.Is(err, ErrNotStored) {
		t.Errorf("beyond the limit: %v", err)
	}
	if got := store.Used(); got != used {
		t.Errorf("%d bytes are used after that, %d before", got, used)
	}
	if left, err := os.ReadDir(store.tempDir()); len(left) > 0 || err != nil {
		t.Errorf("%v is left, %v", left, err)
	}
	store.SetQuota(store.Quota(), func() {
		if err := store.Remove(old.digest); err != nil {
			t.Error(err)
		}
	})
	l, err := fill()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := l.Usage(); err != nil || n != store.Used() {
		t.Errorf("the layer takes %d bytes (%v), the store counts %d", n, err, store.Used())
	}
	closeAll(t, l, store)
}

// A store counts what is there when it is opened.
func TestQuotaCountsOnOpen(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	smp := newSample("layer", 100_000, 5000)
	l := smp.create(t, store)
	smp.put(t, l, 0)
	closeAll(t, l)
	used := store.Used()
	closeAll(t, store)
	store = openStore(t, root, bootA)
	if store.Used() != used {
		t.Errorf("%d bytes are used, %d before", store.Used(), used)
	}
	if err := store.Remove(smp.digest); err != nil || store.Used() != 0 {
		t.Errorf("%d bytes are used after all was removed, %v", store.Used(), err)
	}
	closeAll(t, store)
}
