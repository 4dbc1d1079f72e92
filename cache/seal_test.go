package cache

import (
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSeal(t *testing.T) {
	s := newSample("seal", 10, 5000, 300)
	store := openStore(t, t.TempDir(), bootA)
	l := s.create(t, store)
	defer l.Close()
	s.put(t, l, 0, 2)
	if err := l.Seal(t.Context()); !errors.Is(err, ErrIncomplete) {
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
	if err := l.Seal(t.Context()); err != nil {
		t.Error(err)
	}
	s.check(t, l, 0, 1, 2)
}

// TestSealInherited damages what an earlier process has stored, as a disk that fails does behind the back of the page cache.
func TestSealInherited(t *testing.T) {
	s := newSample("inherited", 10, 5000, 300)
	store := openStore(t, t.TempDir(), bootA)
	l := s.create(t, store)
	s.put(t, l, 0, 1, 2)
	if _, err := l.File().WriteAt([]byte{^s.data[1][7]}, s.chunks[1].DataOffset+7); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := store.Get(s.digest)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s.checkMarked(t, l, 3)
	if err := l.Seal(t.Context()); !errors.Is(err, ErrIncomplete) {
		t.Errorf("seal: %v", err)
	}
	s.checkMarked(t, l, 2)
	whole := l.Whole()
	select {
	case <-whole:
		t.Error("whole without one chunk")
	default:
	}
	s.put(t, l, 1)
	<-whole
	if err := l.Seal(t.Context()); err != nil {
		t.Error(err)
	}
	s.check(t, l, 0, 1, 2)
}

// TestSealed: what is sealed is believed after a reboot if the store was closed, and only then.
func TestSealed(t *testing.T) {
	for _, c := range []struct {
		name          string
		sealed, clean bool
		want          int // chunks that are present without a look
	}{{"sealed, closed", true, true, 3}, {"sealed, crashed", true, false, 0}, {"not sealed, closed", false, true, 0}} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			s := newSample("sealed", 10, 5000, 300)
			store := openStore(t, root, bootA)
			l := s.create(t, store)
			s.put(t, l, 0, 1, 2)
			if c.sealed {
				if err := l.Seal(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(l.Close(), store.Close()); err != nil {
				t.Fatal(err)
			}
			if !c.clean {
				if err := os.Remove(store.cleanName()); err != nil {
					t.Fatal(err)
				}
			}
			store = openStore(t, root, bootB)
			if l, err := store.Get(s.digest); err != nil {
				t.Fatal(err)
			} else {
				s.checkMarked(t, l, c.want)
				if l.Sealed() != (c.want > 0) {
					t.Errorf("sealed is %v", l.Sealed())
				}
				s.check(t, l, 0, 1, 2)
				if err := errors.Join(l.Close(), store.Close()); err != nil {
					t.Fatal(err)
				}
			}
			rec, err := readRecord(store.layerDir(s.digest))
			if err != nil || rec.Sealed != (c.want > 0) {
				t.Errorf("record %+v, %v", rec, err)
			}
		})
	}
}

// TestLostWrites has a disk that takes writes and loses them: a file on a tmpfs that is full. What was stored is found out by Seal, in
// the process that stored it and in another one.
func TestLostWrites(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	for _, again := range []bool{false, true} {
		t.Run(map[bool]string{false: "same process", true: "another process"}[again], func(t *testing.T) {
			s := newSample("lost", slices.Repeat([]int{1 << 20}, 64)...)
			root, _ := thinDisk(t)
			store := openStore(t, root, bootA)
			l := s.create(t, store)
			if err := unix.Fallocate(int(l.data.Fd()), 0, 0, s.size); err != nil { // its extents are on disk
				t.Fatal(err)
			}
			unix.Sync()
			for i := range s.data {
				s.put(t, l, i)
			}
			if again {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				unix.Sync()
				dropInodes(t)
				var err error
				if l, err = store.Get(s.digest); err != nil {
					t.Fatal(err)
				}
			}
			if !l.Complete() {
				t.Fatal("not complete before it is sealed")
			}
			err := l.Seal(t.Context())
			if err == nil {
				t.Error("sealed, though the disk was full")
			}
			if chunks, _ := l.Present(); chunks == len(s.data) {
				t.Errorf("%v, but all chunks are present", err)
			}
			if err := l.Seal(t.Context()); !errors.Is(err, ErrIncomplete) {
				t.Errorf("sealed again: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func dropInodes(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Skip(err)
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

// What was sealed may be mounted natively for as long as the kernel runs: of it nothing is taken, though a disk that loses some has the seal
// taken back, and another process has the store. What is lost can be fetched again.
func TestShedAfterSeal(t *testing.T) {
	for _, how := range []string{"another process", "changed meanwhile", "another boot"} {
		t.Run(how, func(t *testing.T) {
			root := t.TempDir()
			s := newSample("native", 8192, 8192, 8192)
			store := openStore(t, root, bootA)
			l := s.create(t, store)
			s.put(t, l, 0, 1, 2)
			if _, err := l.Shed(8192); err != nil {
				t.Fatal(err)
			}
			s.put(t, l, 0, 1, 2)
			if err := l.Seal(t.Context()); err != nil {
				t.Fatal(err)
			}
			keeps := func(chunks int) {
				t.Helper()
				if n, err := l.Shed(none); n != 0 || err != nil {
					t.Errorf("%d bytes were taken, %v", n, err)
				}
				if fixed := l.Fixed(); fixed < int64(chunks)*8192 {
					t.Errorf("%d bytes are fixed", fixed)
				}
			}
			if how != "changed meanwhile" {
				damage(t, l.DataPath(), s.chunks[1].DataOffset)
				if err := l.Recheck(t.Context()); !errors.Is(err, ErrIncomplete) || l.Sealed() {
					t.Fatalf("damage is not found: %v", err)
				}
				s.checkMarked(t, l, 2)
				keeps(2)
				if l.HasShed() {
					t.Error("what the disk has lost is not fetched again, as something was shed before")
				}
			}
			name := l.DataPath()
			closeAll(t, l, store)
			if how == "changed meanwhile" {
				damage(t, name, s.chunks[1].DataOffset)
			}
			boot := bootA
			if how == "another boot" {
				boot = bootB
			}
			store = openStore(t, root, boot)
			var err error
			if l, err = store.Get(s.digest); err != nil {
				t.Fatal(err)
			}
			if l.Sealed() {
				t.Error("it counts as sealed")
			}
			if how == "another boot" {
				if n, err := l.Shed(none); n == 0 || err != nil {
					t.Errorf("%d bytes were taken in another boot, %v", n, err)
				}
			} else {
				keeps(2)
				s.check(t, l, 0, 2)
			}
			closeAll(t, l, store)
		})
	}
}
