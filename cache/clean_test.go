package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

const bootC = "cccccccc-0000-4000-8000-000000000000"

// crashed is a store with a sealed layer that a crash of the node has damaged.
func crashed(t *testing.T, root string) sample {
	t.Helper()
	s := newSample("sealed", 10, 5000, 300)
	store := openStore(t, root, bootA)
	l := s.create(t, store)
	s.put(t, l, 0, 1, 2)
	if err := l.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	damage(t, l.DataPath(), s.chunks[1].DataOffset)
	closeAll(t, l, store)
	if err := os.Remove(store.cleanName()); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCrashIsRemembered: after a crash layers are looked at, whatever the processes between it and the look do.
func TestCrashIsRemembered(t *testing.T) {
	for name, boots := range map[string][]string{
		"at once":                     {bootB},
		"after a start that failed":   {bootB, bootB},
		"in a later boot":             {bootB, bootC},
		"in a later boot, and failed": {bootB, bootB, bootC, bootC},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := crashed(t, root)
			for _, boot := range boots[:len(boots)-1] {
				closeAll(t, openStore(t, root, boot))
			}
			store := openStore(t, root, boots[len(boots)-1])
			l, err := store.Get(s.digest)
			if err != nil {
				t.Fatal(err)
			}
			if l.Sealed() {
				t.Error("sealed")
			}
			s.check(t, l, 0, 2)
			closeAll(t, l, store)
		})
	}
}

// TestCrashAndFullDisk: records cannot be changed, which costs the time to look at layers, and neither layers nor what is believed.
func TestCrashAndFullDisk(t *testing.T) {
	disk := loopDisk(t, filepath.Join(t.TempDir(), "image"), "24M")
	root := filepath.Join(disk, "root")
	s := crashed(t, root)
	filler := fillDisk(t, disk)
	whole := []int{0, 2}
	for range 2 { // the second is a restart in the same boot
		store := openStore(t, root, bootB)
		for range 2 {
			l, err := store.Get(s.digest)
			if err != nil {
				t.Fatal(err)
			}
			if l.Sealed() {
				t.Error("sealed")
			}
			s.check(t, l, whole...)
			s.put(t, l, 1) // which nobody syncs
			whole = []int{0, 1, 2}
			closeAll(t, l)
		}
		closeAll(t, store)
		if _, err := os.Stat(store.cleanName()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the store counts as closed, though a record is wrong: %v", err)
		}
	}
	if rec, err := readRecord(layerPath(root, s.digest)); err != nil || !rec.Sealed {
		t.Fatalf("the disk was not full enough: %+v, %v", rec, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	store := openStore(t, root, bootC)
	l, err := store.Get(s.digest)
	if err != nil {
		t.Fatal(err)
	}
	if l.Sealed() {
		t.Error("sealed after the next boot")
	}
	s.check(t, l, whole...)
	closeAll(t, l, store)
	if _, err := os.Stat(store.cleanName()); err != nil {
		t.Errorf("there is room again: %v", err)
	}
}

// TestFullDiskStartsAndRemoves: a full disk is left by removing layers, which takes a process that starts on it.
func TestFullDiskStartsAndRemoves(t *testing.T) {
	disk := loopDisk(t, filepath.Join(t.TempDir(), "image"), "24M")
	root := filepath.Join(disk, "root")
	s := newSample("layer", slices.Repeat([]int{4096}, 64)...)
	store := openStore(t, root, bootA)
	l := s.create(t, store)
	for i := range s.data {
		s.put(t, l, i)
	}
	closeAll(t, l, store)
	fillDisk(t, disk)

	store = openStore(t, root, bootB)
	if err := os.Mkdir(filepath.Join(disk, "another"), 0o700); err == nil {
		t.Fatal("the disk is not full")
	}
	if err := store.Remove(s.digest); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(layerPath(root, s.digest)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the layer is still there: %v", err)
	}
	if err := os.Mkdir(filepath.Join(disk, "another"), 0o700); err != nil {
		t.Error(err)
	}
	closeAll(t, store)
}

// TestDiscardInPlace: what cannot be moved is deleted where it is.
func TestDiscardInPlace(t *testing.T) {
	root := t.TempDir()
	s := newSample("layer", 10)
	store := openStore(t, root, bootA)
	l := s.create(t, store)
	if err := os.Remove(store.tempDir()); err != nil {
		t.Fatal(err)
	}
	if err := store.Remove(s.digest); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(layerPath(root, s.digest)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the layer is still there: %v", err)
	}
	closeAll(t, l, store)
}

// TestLeftInLayer: what a crash has left in a layer's folder goes when the layer is opened, and is not counted any more.
func TestLeftInLayer(t *testing.T) {
	for name, test := range map[string]struct {
		left  []string
		leave func(l *Layer) error
	}{
		"behind the proof": {[]string{tocName, skeletonName}, func(l *Layer) error {
			rec, err := readRecord(l.dir)
			rec.DiffID = digest.FromString("tar")
			return errors.Join(err, rec.write(l.dir))
		}},
		"about to replace": {[]string{tocName + newSuffix, recordName + newSuffix, metaName + newSuffix}, func(l *Layer) error {
			var errs []error
			for _, name := range []string{tocName, recordName, metaName} {
				errs = append(errs, os.WriteFile(filepath.Join(l.dir, name+newSuffix), spread(100_000), 0o600))
			}
			return errors.Join(errs...)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			store := openStore(t, root, bootA)
			s := newSample("layer", 100, 200)
			l := s.create(t, store)
			s.put(t, l, 0)
			if err := errors.Join(l.KeepTOC(spread(200_000)), l.KeepPieces(AppendPiece(nil, 0, spread(100_000)))); err != nil {
				t.Fatal(err)
			}
			if err := test.leave(l); err != nil {
				t.Fatal(err)
			}
			dir := l.dir
			closeAll(t, l, store)
			store = openStore(t, root, bootA)
			before := store.Used()
			l, err := store.Get(s.digest)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range test.left {
				if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is there: %v", name, err)
				}
			}
			if n, err := l.Usage(); err != nil || n != store.Used() || before-n < 300_000 {
				t.Errorf("%d bytes are counted, %d before; the layer has %d, %v", store.Used(), before, n, err)
			}
			s.check(t, l, 0)
			closeAll(t, l, store)
		})
	}
}
