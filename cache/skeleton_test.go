package cache

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// checkPieces looks for pieces 0 to n-1 as keepPieces has kept them, but for those that are missing.
func checkPieces(t *testing.T, l *Layer, n int, missing ...int64) {
	t.Helper()
	s, err := l.Skeleton()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	absent := make(map[int64]bool)
	for _, i := range missing {
		absent[i] = true
	}
	for i := range int64(n) {
		p, ok := s.Piece(i * 1000)
		if ok == absent[i] || ok && !bytes.Equal(p, pieceOf(i)) {
			t.Errorf("piece %d: %d bytes, %t", i, len(p), ok)
		}
	}
	if _, ok := s.Piece(5); ok {
		t.Error("there is a piece that nobody has kept")
	}
}

func pieceOf(i int64) []byte { return bytes.Repeat([]byte{byte(i)}, int(i)*100) }

func keepPieces(t *testing.T, l *Layer, which ...int64) {
	t.Helper()
	var records []byte
	for _, i := range which {
		records = AppendPiece(records, i*1000, pieceOf(i))
	}
	if err := l.KeepPieces(records); err != nil {
		t.Fatal(err)
	}
}

func TestSkeleton(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	sample := newSample("layer", 10, 10)
	l := sample.create(t, store)
	checkPieces(t, l, 3, 0, 1, 2)
	keepPieces(t, l, 2, 0) // in any order
	keepPieces(t, l, 0)    // once more
	checkPieces(t, l, 3, 1)
	closeAll(t, l, store)

	store = openStore(t, root, bootB)
	l, err := store.Get(sample.digest)
	if err != nil {
		t.Fatal(err)
	}
	keepPieces(t, l, 1)
	checkPieces(t, l, 3)
	if err := l.DropSkeleton(); err != nil {
		t.Fatal(err)
	}
	checkPieces(t, l, 3, 0, 1, 2)
	keepPieces(t, l, 1)
	checkPieces(t, l, 3, 0, 2)
	closeAll(t, l, store)
}

// TestSkeletonDamaged: what is not as it was written is absent, and hides nothing that comes later.
func TestSkeletonDamaged(t *testing.T) {
	record := func(i int64) int64 { // where it begins
		return i*skeletonHeader + i*(i-1)/2*100
	}
	for name, tt := range map[string]struct {
		harm    func(t *testing.T, file string)
		missing []int64
	}{
		"a piece":  {func(t *testing.T, file string) { damage(t, file, record(3)+skeletonHeader+7) }, []int64{3}},
		"a header": {func(t *testing.T, file string) { damage(t, file, record(3)) }, []int64{3, 4, 5}},
		"its end is lost": {func(t *testing.T, file string) {
			if err := os.Truncate(file, record(5)+100); err != nil {
				t.Fatal(err)
			}
		}, []int64{5}},
		"in a header": {func(t *testing.T, file string) {
			if err := os.Truncate(file, record(5)+7); err != nil {
				t.Fatal(err)
			}
		}, []int64{5}},
		"zeros": {func(t *testing.T, file string) {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt(make([]byte, 700), record(4))
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, []int64{4, 5}},
		"gone": {func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}, []int64{0, 1, 2, 3, 4, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			store := openStore(t, root, bootA)
			sample := newSample("layer", 10)
			l := sample.create(t, store)
			keepPieces(t, l, 0, 1, 2, 3, 4, 5)
			closeAll(t, l)
			tt.harm(t, filepath.Join(layerPath(root, sample.digest), skeletonName))
			l, err := store.Get(sample.digest)
			if err != nil {
				t.Fatal(err)
			}
			checkPieces(t, l, 6, tt.missing...)
			keepPieces(t, l, tt.missing...)
			checkPieces(t, l, 6)
			closeAll(t, l, store)
		})
	}
}

// TestSetDiffID: it is known from then on, whatever boot it is, and the skeleton is gone for good.
func TestSetDiffID(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	sample := newSample("layer", 10)
	l := sample.create(t, store)
	keepPieces(t, l, 0, 1)
	sample.put(t, l, 0)
	if d := l.Info().DiffID; d != "" {
		t.Errorf("diffID %s before it was computed", d)
	}
	want := digest.FromString("tar")
	if err := l.SetDiffID(want); err != nil {
		t.Fatal(err)
	}
	keepPieces(t, l, 2)
	checkPieces(t, l, 3, 0, 1, 2)
	if err := l.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, boot := range []string{bootA, bootB} {
		if d := l.Info().DiffID; d != want {
			t.Errorf("diffID %s, want %s", d, want)
		}
		closeAll(t, l, store)
		store = openStore(t, root, boot)
		var err error
		if l, err = store.Get(sample.digest); err != nil {
			t.Fatal(err)
		}
	}
	if !l.Sealed() {
		t.Error("not sealed any more")
	}
	closeAll(t, l, store)
}

// TestKeepTOC: a TOC stays for as long as a skeleton, and counts.
func TestKeepTOC(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	sample := newSample("layer", 10)
	compressed := bytes.Repeat([]byte("toc"), 100_000)
	for name, end := range map[string]func(l *Layer) error{
		"proven":   func(l *Layer) error { return l.SetDiffID(digest.FromString("tar")) },
		"given up": func(l *Layer) error { return l.GiveUpSkeleton() },
	} {
		l := sample.create(t, store)
		if p := readTOC(t, l); p != nil {
			t.Errorf("%s: %d bytes that nobody has kept", name, len(p))
		}
		before := store.Used()
		for range 2 {
			if err := l.KeepTOC(compressed); err != nil {
				t.Fatal(err)
			}
		}
		if n := store.Used() - before; n != int64(len(compressed)) {
			t.Errorf("%s: %d bytes count", name, n)
		}
		if err := l.DropSkeleton(); err != nil {
			t.Fatal(err)
		}
		closeAll(t, l, store)
		store = openStore(t, root, bootB)
		l, err := store.Get(sample.digest)
		if err != nil {
			t.Fatal(err)
		}
		if p := readTOC(t, l); !bytes.Equal(p, compressed) {
			t.Errorf("%s: %d bytes after a restart", name, len(p))
		}
		used := store.Used()
		if err := end(l); err != nil {
			t.Fatal(err)
		}
		if n := used - store.Used(); n != int64(len(compressed)) {
			t.Errorf("%s: %d bytes do not count any more", name, n)
		}
		if err := l.KeepTOC(compressed); err != nil {
			t.Fatal(err)
		}
		if p := readTOC(t, l); p != nil {
			t.Errorf("%s: %d bytes are there once more", name, len(p))
		}
		closeAll(t, l)
		if err := store.Remove(sample.digest); err != nil {
			t.Fatal(err)
		}
	}

	l := sample.create(t, store)
	store.SetQuota(Quota{Limit: store.Used() + 1000}, nil)
	if err := l.KeepTOC(compressed); !errors.Is(err, ErrFull) || !errors.Is(err, ErrNotStored) {
		t.Errorf("over the quota: %v", err)
	}
	if p := readTOC(t, l); p != nil {
		t.Errorf("%d bytes over the quota", len(p))
	}
	closeAll(t, l, store)
}
