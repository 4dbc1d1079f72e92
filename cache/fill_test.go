package cache

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// piece is data and where it lies in an address space.
type piece struct {
	off  int64
	data []byte
}

func fill(t *testing.T, s *Store, d digest.Digest, pieces ...piece) *Layer {
	t.Helper()
	l, err := s.Fill(d, func(f *Filling) (Info, error) {
		if _, err := io.WriteString(f.Meta, "metadata"); err != nil {
			return Info{}, err
		}
		var end int64
		for _, p := range pieces {
			if _, err := f.WriteAt(p.data, p.off); err != nil {
				return Info{}, err
			}
			end = p.off + int64(len(p.data))
		}
		return Info{Format: "tar", DiffID: d, BlobSize: 1000, DataSize: (end + 4095) / 4096 * 4096, Implied: []string{"a"}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func spread(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i/7 + i/4096 + 1)
	}
	return p
}

func TestFill(t *testing.T) {
	big := spread(9<<20 + 123)
	holes := append(append(spread(5000), make([]byte, 1<<20)...), spread(100)...)
	tests := map[string]struct {
		pieces []piece
		chunks int
		blocks int64 // KiB on disk, at most
	}{
		"nothing":     {},
		"one byte":    {[]piece{{0, []byte("x")}}, 1, 4},
		"files":       {[]piece{{0, spread(100)}, {4096, spread(5000)}, {3 * 4096, spread(1)}}, 1, 16},
		"many chunks": {[]piece{{0, big[:3<<20]}, {3 << 20, big[3<<20:]}}, 3, 9<<10 + 8},
		"a hole":      {[]piece{{0, holes}}, 1, 16},
		"far away":    {[]piece{{0, spread(10)}, {40 << 20, make([]byte, 5<<20)}, {1 << 30, spread(10)}}, 2, 16},
		"only zeros":  {[]piece{{0, make([]byte, 6<<20)}}, 0, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := openStore(t, root, bootA)
			d := digest.FromString(name)
			l := fill(t, s, d, test.pieces...)
			defer l.Close()
			if !l.Complete() || l.NumChunks() != test.chunks || l.Sealed() {
				t.Errorf("complete %v, %d chunks, sealed %v; want %d chunks", l.Complete(), l.NumChunks(), l.Sealed(), test.chunks)
			}
			if info := l.Info(); info.ID != 1 || info.DiffID != d || len(info.Implied) != 1 {
				t.Errorf("info is %+v", info)
			}
			for _, p := range test.pieces {
				got := make([]byte, len(p.data))
				if _, err := l.ReadAt(got, p.off); err != nil || !bytes.Equal(got, p.data) {
					t.Errorf("%d bytes at %d are wrong: %v", len(got), p.off, err)
				}
			}
			for i := range l.NumChunks() {
				if !l.intact(l.Chunk(i)) {
					t.Errorf("chunk %d does not have its sum", i)
				}
			}
			var st unix.Stat_t
			if err := unix.Stat(l.DataPath(), &st); err != nil || st.Blocks/2 > test.blocks {
				t.Errorf("%d KiB on disk, want at most %d: %v", st.Blocks/2, test.blocks, err)
			}
			if err := l.Seal(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFillFails(t *testing.T) {
	root := t.TempDir()
	s := openStore(t, root, bootA)
	d, cause := digest.FromString("x"), errors.New("wrong digest")
	_, err := s.Fill(d, func(f *Filling) (Info, error) {
		if _, err := f.WriteAt(spread(5<<20), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("x"), 4096); !errors.Is(err, ErrNotStored) {
			t.Errorf("writing backwards: %v", err)
		}
		return Info{}, cause
	})
	if !errors.Is(err, cause) {
		t.Fatal(err)
	}
	if _, err := s.Get(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the layer is there: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "layers", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestFillMends has a crash take chunks of a layer, which come back with the next Fill into the layer that is in use.
func TestFillMends(t *testing.T) {
	root := t.TempDir()
	d, data := digest.FromString("x"), spread(10<<20)
	s := openStore(t, root, bootA)
	if err := errors.Join(fill(t, s, d, piece{0, data}).Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "layers", "sha256", d.Encoded(), dataName)
	damage(t, file, 5<<20)

	s = openStore(t, root, bootB)
	l, err := s.Get(d)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if has := []bool{l.Has(0), l.Has(1), l.Has(2)}; !has[0] || has[1] || !has[2] {
		t.Fatalf("after the crash it has %v", has)
	}
	again := fill(t, s, d, piece{0, data})
	defer again.Close()
	if again != l || !l.Complete() {
		t.Fatal("it was not mended")
	}
	got := make([]byte, len(data))
	if _, err := l.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("it was mended wrongly: %v", err)
	}
	if err := l.Seal(t.Context()); err != nil {
		t.Error(err)
	}
}

func damage(t *testing.T, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0, 0, 0, 0}, off); err != nil {
		t.Fatal(err)
	}
}

// TestMendIsCounted mends a layer with no more room than Fill takes, and a little: both folders are counted, and nothing is there twice that
// need not be.
func TestMendIsCounted(t *testing.T) {
	data := spread(32 << 20)
	for loss, lose := range losses {
		for name, lost := range map[string][]int{"half": {0, 2, 4, 6}, "all": {0, 1, 2, 3, 4, 5, 6, 7}} {
			t.Run(name+" "+loss, func(t *testing.T) {
				root, d := memoryDir(t), digest.FromString("x")
				store := openStore(t, root, bootA)
				l := fill(t, store, d, piece{0, data})
				for _, i := range lost {
					lose(t, l, l.Chunk(i))
				}
				closeAll(t, l, store)
				store = openStore(t, root, bootB)
				l, err := store.Get(d)
				if err != nil {
					t.Fatal(err)
				}
				for i := range l.NumChunks() {
					l.Has(i)
				}
				counts(t, store.Used(), l.dir)
				store.SetQuota(Quota{Limit: store.Used() + int64(len(data)) + 1<<20}, nil)
				again := fill(t, store, d, piece{0, data})
				if again != l || !l.Complete() {
					t.Error("it was not mended")
				}
				counts(t, store.Used(), l.dir)
				sealNow(t, l)
				counts(t, store.Used(), l.dir)
				closeAll(t, again, l, store)
			})
		}
	}
}

// TestMendWaits: chunks that are mostly zeros come without, and take all of their blocks in the place of those that were lost. Who mends waits for
// the room, and what it has meanwhile is counted.
func TestMendWaits(t *testing.T) {
	root, d := memoryDir(t), digest.FromString("x")
	var pieces []piece
	for off := int64(0); off < 16<<20; off += 4 << 20 {
		pieces = append(pieces, piece{off, spread(1 << 20)}, piece{off + 4<<20 - 4096, spread(4096)})
	}
	store := openStore(t, root, bootA)
	l := fill(t, store, d, pieces...)
	for i := range l.NumChunks() {
		damage(t, l.DataPath(), l.Chunk(i).DataOffset)
	}
	closeAll(t, l, store)
	store = openStore(t, root, bootB)
	l, err := store.Get(d)
	if err != nil {
		t.Fatal(err)
	}
	rounds, quota := 0, Quota{Limit: 2*store.Used() + 1<<20}
	store.SetQuota(quota, func() {
		rounds++
		made, err := filepath.Glob(filepath.Join(store.tempDir(), "*"))
		if err != nil || len(made) != 1 {
			t.Errorf("%v is made, %v", made, err)
		}
		counts(t, store.Used(), append(made, l.dir)...)
		quota.Limit += 16 << 20
		store.SetQuota(quota, nil)
	})
	again := fill(t, store, d, pieces...)
	if rounds != 1 || !l.Complete() {
		t.Errorf("complete: %t, room was made %d times", l.Complete(), rounds)
	}
	counts(t, store.Used(), l.dir)
	closeAll(t, again, l, store)
}

// TestGivenBackWhenGone: a folder that becomes no layer is counted until it is gone.
func TestGivenBackWhenGone(t *testing.T) {
	smp := newSample("layer", 4096)
	for name, bring := range map[string]func(s *Store, last func() error) (*Layer, error){
		"fill fails": func(s *Store, last func() error) (*Layer, error) {
			return s.Fill(newSample("another").digest, func(f *Filling) (Info, error) {
				_, err := f.WriteAt(spread(4<<20), 0)
				return Info{}, errors.Join(err, last(), io.ErrUnexpectedEOF)
			})
		},
		"filled beside another": func(s *Store, last func() error) (*Layer, error) {
			return s.Fill(smp.digest, func(f *Filling) (Info, error) {
				_, err := f.WriteAt(spread(4<<20), 0)
				return Info{DataSize: 4 << 20}, errors.Join(err, last())
			})
		},
		"created beside another": func(s *Store, last func() error) (*Layer, error) {
			return s.Create(smp.digest, smp.info(), func(meta *os.File, add func(Chunk) error) error {
				return errors.Join(smp.build(meta, add), last())
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t, t.TempDir(), bootA)
			first := smp.create(t, store)
			before := store.Used()
			written, end := make(chan struct{}), make(chan *Layer)
			go func() {
				l, err := bring(store, func() error {
					store.budget.mu.Lock() // whoever gives something back waits for it
					close(written)
					return nil
				})
				if (err == nil) != (name != "fill fails") {
					t.Error(err)
				}
				end <- l
			}()
			<-written
			for began := time.Now(); ; time.Sleep(time.Millisecond) {
				left, err := os.ReadDir(store.tempDir())
				if err != nil {
					t.Error(err)
				}
				if len(left) == 0 {
					break
				}
				if time.Since(began) > 5*time.Second {
					t.Errorf("%d bytes are counted, %d before, and %v is there", store.Used(), before, left)
					break
				}
			}
			store.budget.mu.Unlock()
			if l := <-end; l != nil {
				closeAll(t, l)
			}
			if store.Used() != before {
				t.Errorf("%d bytes are counted, %d before", store.Used(), before)
			}
			closeAll(t, first, store)
		})
	}
}
