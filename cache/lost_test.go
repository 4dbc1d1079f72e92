package cache

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// losses are the ways in which a disk loses chunks: their blocks have something else, or are no more.
var losses = map[string]func(t *testing.T, l *Layer, c Chunk){
	"damaged": func(t *testing.T, l *Layer, c Chunk) {
		t.Helper()
		if _, err := l.data.WriteAt([]byte("damage"), c.DataOffset); err != nil {
			t.Fatal(err)
		}
	},
	"gone": func(t *testing.T, l *Layer, c Chunk) {
		t.Helper()
		punchChunk(t, l, c)
	},
}

func punchChunk(t *testing.T, l *Layer, c Chunk) {
	t.Helper()
	if err := unix.Fallocate(int(l.data.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, c.DataOffset, blocks(c.Size)); err != nil {
		t.Skip(err)
	}
}

// finds are the ways in which it is found out, in the next boot or in the same.
var finds = map[string]struct {
	boot string
	find func(t *testing.T, l *Layer) error
}{
	"asked for": {bootB, func(_ *testing.T, l *Layer) error {
		for i := range l.NumChunks() {
			l.Has(i)
		}
		return ErrIncomplete
	}},
	"sealed":    {bootA, func(t *testing.T, l *Layer) error { return l.Seal(t.Context()) }},
	"rechecked": {bootA, func(t *testing.T, l *Layer) error { return l.Recheck(t.Context()) }},
}

// lostLayer has half of a layer lost, and that found out.
func lostLayer(t *testing.T, root, loss, found string) (sample, *Store, *Layer) {
	t.Helper()
	smp := newSample("layer", slices.Repeat([]int{1 << 20}, 8)...)
	store := openStore(t, root, bootA)
	l := smp.create(t, store)
	smp.put(t, l, 0, 1, 2, 3, 4, 5, 6, 7)
	for i := range 4 {
		losses[loss](t, l, smp.chunks[i])
	}
	closeAll(t, l, store)
	store = openStore(t, root, finds[found].boot)
	l, err := store.Get(smp.digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := finds[found].find(t, l); !errors.Is(err, ErrIncomplete) {
		t.Fatal(err)
	}
	smp.check(t, l, 4, 5, 6, 7)
	for i := range 4 {
		if l.Claimed(i) {
			t.Errorf("chunk %d, which is known to be lost, is to be hashed again", i)
		}
	}
	return smp, store, l
}

// TestLostIsCounted: what the disk has of lost chunks is counted until they are stored again, or shed, or the layer goes, in this process and the
// next one.
func TestLostIsCounted(t *testing.T) {
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	for loss := range losses {
		for found, how := range finds {
			for name, then := range map[string]func(t *testing.T, smp sample, store *Store, l *Layer){
				"nothing":      func(*testing.T, sample, *Store, *Layer) {},
				"stored again": func(t *testing.T, smp sample, _ *Store, l *Layer) { smp.put(t, l, all...); smp.check(t, l, all...) },
				"sealed": func(t *testing.T, smp sample, _ *Store, l *Layer) {
					smp.put(t, l, all...)
					sealNow(t, l)
				},
				"shed": func(t *testing.T, smp sample, _ *Store, l *Layer) {
					if _, err := l.Shed(none); err != nil {
						t.Error(err)
					}
					smp.check(t, l)
					if n := dataOnDisk(t, l); n > 64<<10 {
						t.Errorf("the data file has %d bytes on disk", n)
					}
				},
				"shed and stored": func(t *testing.T, smp sample, _ *Store, l *Layer) {
					if _, err := l.Shed(none); err != nil {
						t.Error(err)
					}
					smp.put(t, l, all...)
				},
			} {
				t.Run(loss+", "+found+", "+name, func(t *testing.T) {
					root := memoryDir(t)
					smp, store, l := lostLayer(t, root, loss, found)
					then(t, smp, store, l)
					counts(t, store.Used(), l.dir)
					present, _ := l.Present()
					closeAll(t, l, store)
					store = openStore(t, root, how.boot)
					l, err := store.Get(smp.digest)
					if err != nil {
						t.Fatal(err)
					}
					counts(t, store.Used(), l.dir)
					smp.check(t, l, all[len(all)-present:]...)
					smp.put(t, l, all...)
					counts(t, store.Used(), l.dir)
					smp.check(t, l, all...)
					closeAll(t, l)
					if err := store.Remove(smp.digest); err != nil || store.Used() != 0 {
						t.Errorf("removed, %d bytes are counted: %v", store.Used(), err)
					}
					closeAll(t, store)
				})
			}
		}
	}
}

// TestLostUnderNativeMount: blocks of lost chunks stay where a native mount may have them, and are counted.
func TestLostUnderNativeMount(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 1<<20, 1<<20)
	l := smp.create(t, store)
	smp.put(t, l, 0, 1)
	sealNow(t, l)
	damage(t, l.DataPath(), 0)
	before := dataOnDisk(t, l)
	if err := l.Recheck(t.Context()); !errors.Is(err, ErrIncomplete) {
		t.Fatal(err)
	}
	if n, err := l.Shed(none); n != 0 || err != nil || dataOnDisk(t, l) != before {
		t.Errorf("%d bytes were taken, %v: %d bytes are on disk, %d before", n, err, dataOnDisk(t, l), before)
	}
	counted(t, store, l)
	smp.put(t, l, 0)
	smp.check(t, l, 0, 1)
	counted(t, store, l)
	closeAll(t, l, store)
}

// TestLostLeavesNoRoom: the quota holds with lost chunks too, and they make room.
func TestLostLeavesNoRoom(t *testing.T) {
	smp, store, l := lostLayer(t, t.TempDir(), "damaged", "asked for")
	limit := store.Used() + 1<<20 + 64<<10
	store.SetQuota(Quota{Limit: limit}, nil)
	other := newSample("another", 1<<20, 1<<20, 1<<20)
	o := other.create(t, store)
	other.put(t, o, 0)
	if err := o.Put(1, other.data[1]); !errors.Is(err, ErrFull) {
		t.Errorf("beyond the limit: %v", err)
	}
	if n, err := l.Shed(4 << 20); n != 4<<20 || err != nil {
		t.Errorf("%d bytes were taken, %v", n, err)
	}
	smp.check(t, l, 4, 5, 6, 7)
	other.put(t, o, 1, 2)
	closeAll(t, l, o, store)
}

// TestPutOverClaims stores chunks of which nobody knows whether they are there: they are counted once, and present for as long as they are there.
func TestPutOverClaims(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		root := t.TempDir()
		smp := newSample("layer", 1<<20, 1<<20, 1<<20)
		store := openStore(t, root, bootA)
		l := smp.create(t, store)
		smp.put(t, l, 0, 1, 2)
		if damaged {
			losses["damaged"](t, l, smp.chunks[0])
			losses["gone"](t, l, smp.chunks[1])
		}
		closeAll(t, l, store)
		store = openStore(t, root, bootB)
		l, err := store.Get(smp.digest)
		if err != nil {
			t.Fatal(err)
		}
		smp.put(t, l, 0, 1)
		counted(t, store, l)
		if n := countSet(l.presence.claimed, 3); n != 1 {
			t.Errorf("%d chunks are claimed, want one", n)
		}
		if freed, err := l.Shed(1 << 20); freed != 1<<20 || err != nil {
			t.Errorf("freed %d, %v", freed, err)
		}
		smp.check(t, l, 1, 2)
		counted(t, store, l)
		if _, err := l.Shed(none); err != nil {
			t.Error(err)
		}
		smp.check(t, l)
		counted(t, store, l)
		closeAll(t, l, store)
	}
}
