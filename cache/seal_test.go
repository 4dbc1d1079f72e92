package cache

import (
	"errors"
	"testing"
)

func TestSeal(t *testing.T) {
	s := newSample("seal", 10, 5000, 300)
	store := openStore(t, t.TempDir(), bootA)
	l := s.create(t, store)
	defer l.Close()
	s.put(t, l, 0, 2)
	if err := l.Seal(); !errors.Is(err, ErrIncomplete) {
		t.Errorf("incomplete: %v", err)
	}
	select {
	case <-l.Whole():
		t.Error("whole, but one chunk is missing")
	default:
	}
	s.put(t, l, 1)
	select {
	case <-l.Whole():
	default:
		t.Error("all chunks are there, but it is not whole")
	}
	if err := l.Seal(); err != nil {
		t.Error(err)
	}
	s.check(t, l, 0, 1, 2)
}

// TestDistrust damages what is on disk, as a disk that fails does behind the back of the page cache.
func TestDistrust(t *testing.T) {
	s := newSample("distrust", 10, 5000, 300)
	store := openStore(t, t.TempDir(), bootA)
	l := s.create(t, store)
	defer l.Close()
	s.put(t, l, 0, 1, 2)
	if _, err := l.File().WriteAt([]byte{^s.data[1][7]}, s.chunks[1].DataOffset+7); err != nil {
		t.Fatal(err)
	}
	s.checkMarked(t, l, 3)
	if err := l.distrust(); err != nil {
		t.Fatal(err)
	}
	s.checkMarked(t, l, 0)
	if err := l.Seal(); !errors.Is(err, ErrIncomplete) {
		t.Errorf("seal: %v", err)
	}
	s.check(t, l, 0, 2)
	s.put(t, l, 1)
	if err := l.Seal(); err != nil {
		t.Error(err)
	}
}

func (s sample) checkMarked(t *testing.T, l *Layer, want int) {
	t.Helper()
	chunks, bytes := l.Present()
	if chunks != want || (bytes == 0) != (want == 0) {
		t.Errorf("%d chunks of %d bytes are present, want %d", chunks, bytes, want)
	}
}

// A layer without chunks, and one that was complete before it was opened, are whole from the first.
func TestWholeAtOnce(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	empty, full := newSample("empty"), newSample("full", 10)
	empty.digest = full.digest[:len(full.digest)-1] + "0"
	info := empty.info()
	info.PrefetchChunks = 0
	e, err := store.Create(empty.digest, info, empty.build)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	f := full.create(t, store)
	full.put(t, f, 0)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = store.Get(full.digest); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, l := range []*Layer{e, f} {
		select {
		case <-l.Whole():
		default:
			t.Errorf("layer %s is not whole", l.Digest())
		}
	}
}
