package cache

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// counted fails unless the store counts what its one layer has on disk, but for some blocks of the file system's own.
func counted(t *testing.T, store *Store, l *Layer) {
	t.Helper()
	unix.Sync()
	counts(t, store.Used(), l.dir)
}

// counts fails unless as much is counted as folders have on disk, but for some blocks of the file system's own.
func counts(t *testing.T, used int64, dirs ...string) {
	t.Helper()
	var onDisk int64
	for _, dir := range dirs {
		n, err := dirUsage(dir)
		if err != nil {
			t.Fatal(err)
		}
		onDisk += n
	}
	if diff := used - onDisk; diff > 64<<10 || diff < -64<<10 {
		t.Errorf("%d bytes are counted, %d are on disk", used, onDisk)
	}
}

// Files smaller than a block give theirs back.
func TestShedSmallFiles(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	sizes := make([]int, 1000)
	for i := range sizes {
		sizes[i] = 1000 + i%2000
	}
	smp := newSample("layer", sizes...)
	l := smp.create(t, store)
	for i := range sizes {
		smp.put(t, l, i)
	}
	before := store.Used()
	if freed, err := l.Shed(none); err != nil || freed != 4096*int64(len(sizes)) || store.Used() != before-freed {
		t.Errorf("freed %d, %v", freed, err)
	}
	counted(t, store, l)
	closeAll(t, l, store)
}

// A chunk that several store at once is counted once.
func TestPutAtOnceCounts(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	sizes := make([]int, 200)
	for i := range sizes {
		sizes[i] = 64 << 10
	}
	smp := newSample("layer", sizes...)
	l := smp.create(t, store)
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			for i := range sizes {
				if err := l.Put(i, smp.data[i]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	counted(t, store, l)
	closeAll(t, l, store)
}

// What a disk has lost is counted once when it comes again.
func TestLostCounts(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	smp := newSample("layer", 1<<20, 1<<20, 1<<20)
	l := smp.create(t, store)
	smp.put(t, l, 0, 1, 2)
	for _, c := range smp.chunks {
		if _, err := l.data.WriteAt([]byte("damage"), c.DataOffset); err != nil {
			t.Fatal(err)
		}
	}
	closeAll(t, l, store)
	store = openStore(t, root, bootB)
	l, err := store.Get(smp.digest)
	if err != nil {
		t.Fatal(err)
	}
	smp.check(t, l)
	smp.put(t, l, 0, 1, 2)
	counted(t, store, l)
	closeAll(t, l, store)
}

// What cannot be given back to the disk stays counted, once.
func TestPunchFails(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 1<<20, 1<<20)
	l := smp.create(t, store)
	good := l.data
	readOnly, err := os.Open(l.DataPath())
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		smp.put(t, l, 0, 1)
		l.data = readOnly
		if freed, err := l.Shed(none); err == nil || freed != 0 {
			t.Fatalf("freed %d, %v", freed, err)
		}
		l.data = good
		smp.check(t, l)
	}
	counted(t, store, l)
	closeAll(t, readOnly, l, store)
}

// A skeleton that cannot be written costs nothing; one of a layer that has shed is gone for good.
func TestSkeletonCounts(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 1<<20)
	l := smp.create(t, store)
	name := filepath.Join(l.dir, skeletonName)
	before := store.Used()
	for range 3 {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if l.skeleton, err = os.Open(name); err != nil { // for reading: writing fails
			t.Fatal(err)
		}
		if err := l.KeepPieces(AppendPiece(nil, 0, make([]byte, 100_000))); !errors.Is(err, ErrNotStored) {
			t.Fatal(err)
		}
	}
	if used := store.Used(); used != before {
		t.Errorf("%d bytes are counted, %d before", used, before)
	}
	smp.put(t, l, 0)
	if err := l.KeepPieces(AppendPiece(nil, 0, make([]byte, 100_000))); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Shed(none); err != nil {
		t.Fatal(err)
	}
	if err := l.KeepPieces(AppendPiece(nil, 0, make([]byte, 100_000))); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a layer that has shed keeps a skeleton: %v", err)
	}
	counted(t, store, l)
	closeAll(t, l, store)
}

// What a full disk has written half of is given back as it was taken, and so is what a crash has torn.
func TestSkeletonFullDisk(t *testing.T) {
	disk := loopDisk(t, filepath.Join(t.TempDir(), "image"), "32M")
	store := openStore(t, disk, bootA)
	smp := newSample("layer", 100)
	l := smp.create(t, store)
	before := store.Used()
	filler := fillDisk(t, disk)
	shrink(t, filler, 2<<20)
	var records []byte
	for i := range 4 {
		records = AppendPiece(records, int64(i), spread(MaxPiece))
	}
	if err := l.KeepPieces(records); !IsOutOfSpace(err) || !errors.Is(err, ErrNotStored) {
		t.Errorf("on a full disk: %v", err)
	}
	if used := store.Used(); used != before {
		t.Errorf("%d bytes are counted, %d before", used, before)
	}
	if err := l.KeepPieces(AppendPiece(nil, 0, spread(100_000))); err != nil {
		t.Fatal(err)
	}
	dir := l.dir
	closeAll(t, l, store)
	if err := os.Truncate(filepath.Join(dir, skeletonName), 90_000); err != nil {
		t.Fatal(err)
	}
	store = openStore(t, disk, bootA)
	l, err := store.Get(smp.digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.KeepPieces(AppendPiece(nil, 0, spread(4096))), l.DropSkeleton()); err != nil {
		t.Fatal(err)
	}
	if diff := store.Used() - before; diff < -4096 || diff > 4096 { // files are counted by blocks when a store is opened
		t.Errorf("%d bytes more are counted than before", diff)
	}
	closeAll(t, l, store)
}

// Trouble begins at once, and ends some seconds after the last failure: when something was stored, or a full disk has room.
func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []error
		var room atomic.Int64
		tr := &trouble{room: room.Load, told: func(err error) { told = append(told, err) }}
		expect := func(n int, err error) {
			t.Helper()
			tr.mu.Lock()
			defer tr.mu.Unlock()
			if len(told) != n || tr.err != err { //nolint:errorlint // the very error
				t.Errorf("told %q, trouble is %v; want %d and %v", told, tr.err, n, err)
			}
		}
		tr.note(4096, nil)
		expect(0, nil)
		tr.note(4096, unix.ENOSPC)
		expect(1, unix.ENOSPC)
		for range 5 { // now and again it goes well
			time.Sleep(healTime - time.Second)
			tr.note(4096, nil)
			tr.note(4096, unix.ENOSPC)
		}
		time.Sleep(2 * healTime)
		expect(1, unix.ENOSPC)
		room.Store(1 << 20)
		time.Sleep(2 * healTime)
		expect(2, nil)
		tr.note(4096, unix.EIO)
		time.Sleep(2 * healTime)
		expect(3, unix.EIO) // room is no matter
		tr.note(1, nil)
		time.Sleep(2 * healTime)
		expect(4, nil)
	})
}
