package cache

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSealKeepsFiles has the disk lose what it was given, and tell nobody, as it is when somebody else was told.
func TestSealKeepsFiles(t *testing.T) {
	for _, test := range []struct {
		name, file string
		cached     bool // the page cache still has it
	}{
		{"metadata image", metaName, true},
		{"metadata image for good", metaName, false},
		{"chunk table", chunksName, true},
		{"presence record", presentName, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			store := openStore(t, loopDisk(t, image, "24M"), bootA)
			s := newSample("layer", 5000, 300)
			l := s.create(t, store)
			s.put(t, l, 0, 1)
			unix.Sync()
			name := filepath.Join(l.dir, test.file)
			loseBlock(t, image, name)
			if !test.cached {
				dropPages(t, name)
			}
			for range 3 {
				if err := l.Seal(t.Context()); (err == nil) != test.cached || l.Sealed() != test.cached {
					t.Errorf("seal: %v, sealed %v", err, l.Sealed())
				}
			}
			s.check(t, l, 0, 1)
			closeAll(t, l) // it maps some of the files
			dropPages(t, name)
			rec, err := readRecord(l.dir)
			if err != nil || rec.Sealed != test.cached {
				t.Errorf("record %+v, %v", rec, err)
			}
			if err := rec.verify(l.dir); (err == nil) != test.cached {
				t.Errorf("what the disk has: %v", err)
			}
			l, err = store.Get(s.digest)
			switch {
			case !test.cached && !errors.Is(err, fs.ErrNotExist):
				t.Errorf("a layer whose metadata are lost: %v", err)
			case test.cached && err != nil:
				t.Error(err)
			case test.cached:
				s.check(t, l, 0, 1)
				closeAll(t, l)
			}
			closeAll(t, store)
		})
	}
}

// loseBlock overwrites the first block of a file behind the back of the file system.
func loseBlock(t *testing.T, image, name string) {
	t.Helper()
	block, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	off := bytes.Index(disk, block[:min(len(block), 4096)])
	if off < 0 || off%4096 != 0 || bytes.Contains(disk[off+1:], block[:min(len(block), 4096)]) {
		t.Fatalf("the file's first block is at %d, or elsewhere", off)
	}
	damage(t, image, int64(off))
}

func dropPages(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// TestSealedIncomplete: where the presence record of a sealed layer has lost marks, what is fetched anew has to be sealed anew.
func TestSealedIncomplete(t *testing.T) {
	for _, boot := range []string{bootA, bootB} {
		t.Run(boot[:1], func(t *testing.T) {
			root := t.TempDir()
			s := newSample("layer", 10, 5000, 300)
			store := openStore(t, root, bootA)
			l := s.create(t, store)
			s.put(t, l, 0, 1, 2)
			if err := l.Seal(t.Context()); err != nil {
				t.Fatal(err)
			}
			unset(l.presence.present, 1)
			closeAll(t, l, store)

			store = openStore(t, root, boot)
			l, err := store.Get(s.digest)
			if err != nil {
				t.Fatal(err)
			}
			s.check(t, l, 0, 2)
			s.put(t, l, 1)
			rec, err := readRecord(l.dir)
			if l.Sealed() || err != nil || rec.Sealed {
				t.Errorf("sealed %v, record %+v, %v", l.Sealed(), rec, err)
			}
			if err := l.Seal(t.Context()); err != nil || !l.Sealed() {
				t.Errorf("sealed anew: %v, %v", l.Sealed(), err)
			}
			closeAll(t, l, store)
		})
	}
}

// TestSealStops: hashing ends with its context, and goes on with the next attempt.
func TestSealStops(t *testing.T) {
	s := newSample("inherited", 10, 5000, 300)
	store := openStore(t, t.TempDir(), bootA)
	l := s.create(t, store)
	s.put(t, l, 0, 1, 2)
	closeAll(t, l)
	l, err := store.Get(s.digest)
	if err != nil {
		t.Fatal(err)
	}
	store.hashing <- struct{}{} // another layer's turn
	cause := errors.New("unmounted")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Seal(ctx) }()
	cancel(cause)
	if err := <-ended; !errors.Is(err, cause) || l.Sealed() {
		t.Errorf("sealed %v, %v", l.Sealed(), err)
	}
	<-store.hashing
	if err := l.Seal(ctx); !errors.Is(err, cause) {
		t.Errorf("sealed after its context: %v", err)
	}
	if err := l.Seal(t.Context()); err != nil {
		t.Error(err)
	}
	closeAll(t, l, store)
}
