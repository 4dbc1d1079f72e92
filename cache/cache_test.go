package cache

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	bootA = "aaaaaaaa-0000-4000-8000-000000000000"
	bootB = "bbbbbbbb-0000-4000-8000-000000000000"
)

// sample is a layer of random chunks, each in 4 KiB blocks of its own.
type sample struct {
	digest digest.Digest
	data   [][]byte
	chunks []Chunk
	size   int64
}

func newSample(name string, sizes ...int) sample {
	s := sample{digest: digest.FromString(name)}
	rnd := rand.New(rand.NewPCG(1, uint64(len(name))))
	blob := int64(0)
	for _, n := range sizes {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		s.data = append(s.data, p)
		s.chunks = append(s.chunks, Chunk{
			DataOffset: s.size, Size: int64(n), BlobOffset: blob, BlobSize: int64(n) + 20, Digest: sha256.Sum256(p),
		})
		s.size += int64(n+4095) &^ 4095
		blob += int64(n) + 20
	}
	return s
}

func (s sample) build(meta *os.File, add func(Chunk) error) error {
	if _, err := meta.WriteString("metadata of " + s.digest.String()); err != nil {
		return err
	}
	return s.addTo(add)
}

func (s sample) addTo(add func(Chunk) error) error {
	for _, c := range s.chunks {
		if err := add(c); err != nil {
			return err
		}
	}
	return nil
}

func (s sample) info() Info {
	return Info{Format: "estargz", TOCDigest: digest.FromString("toc"), BlobSize: 1 << 20, DataSize: s.size, PrefetchChunks: 1}
}

func (s sample) create(t *testing.T, store *Store) *Layer {
	t.Helper()
	l, err := store.Create(s.digest, s.info(), s.build)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (s sample) put(t *testing.T, l *Layer, which ...int) {
	t.Helper()
	for _, i := range which {
		if err := l.Put(i, s.data[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// check fails unless exactly the chunks which are there, with their bytes.
func (s sample) check(t *testing.T, l *Layer, which ...int) {
	t.Helper()
	want := make(map[int]bool)
	for _, i := range which {
		want[i] = true
	}
	for i, p := range s.data {
		if l.Has(i) != want[i] {
			t.Errorf("Has(%d) = %v, want %v", i, !want[i], want[i])
		}
		if !want[i] {
			continue
		}
		got := make([]byte, len(p))
		if _, err := l.ReadAt(got, s.chunks[i].DataOffset); err != nil || !bytes.Equal(got, p) {
			t.Errorf("chunk %d reads wrong: %v", i, err)
		}
	}
	if n, _ := l.Present(); n != len(which) || l.Complete() != (n == len(s.data)) {
		t.Errorf("%d of %d chunks present (complete: %v), want %d", n, len(s.data), l.Complete(), len(which))
	}
}

func openStore(t *testing.T, root, boot string) *Store {
	t.Helper()
	s, err := open(root, boot)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeAll(t *testing.T, closers ...interface{ Close() error }) {
	t.Helper()
	for _, c := range closers {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLayerSurvivesRestart(t *testing.T) {
	root := t.TempDir()
	smp := newSample("layer", 1, 4096, 10_000, 100_000)

	store := openStore(t, root, bootA)
	l := smp.create(t, store)
	smp.check(t, l)
	smp.put(t, l, 1, 3)
	smp.put(t, l, 1) // again is harmless
	smp.check(t, l, 1, 3)
	closeAll(t, l, store)

	store = openStore(t, root, bootA)
	l, err := store.Get(smp.digest)
	if err != nil {
		t.Fatal(err)
	}
	smp.check(t, l, 1, 3)
	want := smp.info()
	want.ID = 1
	if got := l.Info(); !reflect.DeepEqual(got, want) {
		t.Errorf("Info() = %+v, want %+v", got, want)
	}
	for i, c := range smp.chunks {
		if got := l.Chunk(i); got != c {
			t.Errorf("Chunk(%d) = %+v, want %+v", i, got, c)
		}
	}
	smp.put(t, l, 0, 2)
	smp.check(t, l, 0, 1, 2, 3)
	closeAll(t, l, store)
}

func TestFind(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	l := newSample("find", 4096, 5000, 1).create(t, store)
	for off, want := range map[int64]int{0: 0, 4095: 0, 4096: 1, 9095: 1, 9096: 2, 12287: 2, 12288: 2, 12289: 3, 1 << 40: 3} {
		if got := l.Find(off); got != want {
			t.Errorf("Find(%d) = %d, want %d", off, got, want)
		}
	}
	closeAll(t, l, store)
}

func TestPutChecksDigest(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 5000, 5000)
	l := smp.create(t, store)
	for name, p := range map[string][]byte{"another's": smp.data[1], "short": smp.data[0][:4999], "empty": nil} {
		var de *DigestError
		if err := l.Put(0, p); !errors.As(err, &de) || de.Chunk != 0 {
			t.Errorf("%s bytes: Put returned %v, want a *DigestError", name, err)
		}
	}
	smp.check(t, l)
	got := make([]byte, 5000)
	if _, err := l.ReadAt(got, 0); err != nil || !bytes.Equal(got, make([]byte, 5000)) {
		t.Errorf("bytes with a wrong digest reached the data file (%v)", err)
	}
	closeAll(t, l, store)
}

func TestRebootMakesClaims(t *testing.T) {
	root := t.TempDir()
	smp := newSample("layer", 4096, 4096, 4096, 4096)
	store := openStore(t, root, bootA)
	l := smp.create(t, store)
	smp.put(t, l, 0, 1, 2)
	// What the disk kept of chunk 1 is not what was written.
	if _, err := l.File().WriteAt([]byte("torn"), smp.chunks[1].DataOffset); err != nil {
		t.Fatal(err)
	}
	closeAll(t, l, store)

	for _, boot := range []string{bootB, bootA, bootB} { // claims nobody looked at survive further boots
		store = openStore(t, root, boot)
		l, err := store.Get(smp.digest)
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := l.Present(); n != 0 {
			t.Errorf("%d chunks believed after a reboot, unseen", n)
		}
		closeAll(t, l, store)
	}
	store = openStore(t, root, bootA)
	l, err := store.Get(smp.digest)
	if err != nil {
		t.Fatal(err)
	}
	smp.check(t, l, 0, 2)
	smp.put(t, l, 1, 3)
	smp.check(t, l, 0, 1, 2, 3)
	closeAll(t, l, store)
}

func TestIDsAreNeverReused(t *testing.T) {
	root := t.TempDir()
	seen := make(map[uint32]bool)
	for round := range 3 {
		store := openStore(t, root, bootA)
		for range 3 {
			smp := newSample("layer", 4096)
			l := smp.create(t, store)
			if id := l.Info().ID; id == 0 || seen[id] {
				t.Errorf("ID %d was given out before", id)
			}
			seen[l.Info().ID] = true
			if err := store.Remove(smp.digest); err != nil {
				t.Error(err)
			}
			closeAll(t, l)
		}
		closeAll(t, store)
		if round == 1 { // lost by a power cut; the layers themselves still say
			store := openStore(t, root, bootA)
			l := newSample("kept", 4096).create(t, store)
			seen[l.Info().ID] = true
			closeAll(t, l, store)
			if err := os.Truncate(filepath.Join(root, "layers", "serial"), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestRemove(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	smp := newSample("layer", 4096, 50_000)
	l := smp.create(t, store)
	smp.put(t, l, 0, 1)
	before := store.Used()
	if before < 54_000 {
		t.Errorf("store occupies %d bytes, want at least 54,000", before)
	}
	if n, err := l.Usage(); err != nil || n != before {
		t.Errorf("layer occupies %d bytes (%v), the store %d", n, err, before)
	}
	if err := store.Remove(smp.digest); err != nil {
		t.Fatal(err)
	}
	smp.check(t, l, 0, 1) // still open
	if n := store.Used(); n != before {
		t.Errorf("the store occupies %d bytes with a removed layer that is open, want %d", n, before)
	}
	if n, err := l.Usage(); err != nil || n != 0 {
		t.Errorf("removed layer occupies %d bytes (%v)", n, err)
	}
	if _, err := store.Get(smp.digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of a removed layer returned %v", err)
	}
	again := smp.create(t, store) // beside the old one
	smp.check(t, again)
	if again.Info().ID == l.Info().ID {
		t.Error("two open layers have one ID")
	}
	closeAll(t, l, again)
	if err := store.Remove(digest.FromString("never there")); err != nil {
		t.Error(err)
	}
	closeAll(t, store)
}

// TestRemoveIdle: what somebody has open stays, and what was used after the given time.
func TestRemoveIdle(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	s := newSample("layer", 100, 200)
	l := s.create(t, store)
	hour := time.Now().Add(time.Hour)
	if _, err := store.RemoveIdle(l.Digest(), hour); !errors.Is(err, ErrInUse) {
		t.Errorf("open: %v", err)
	}
	closeAll(t, l)
	if _, err := store.RemoveIdle(l.Digest(), time.Now().Add(-time.Hour)); !errors.Is(err, ErrInUse) {
		t.Errorf("used since: %v", err)
	}
	used := store.Used()
	if bytes, err := store.RemoveIdle(l.Digest(), hour); err != nil || bytes != used || store.Used() != 0 {
		t.Errorf("%d of %d bytes, %v", bytes, used, err)
	}
	if _, err := store.RemoveIdle(l.Digest(), hour); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("again: %v", err)
	}
	closeAll(t, store)
}

func TestOneStoreOneProcess(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	if _, err := open(root, bootA); !errors.Is(err, ErrLocked) {
		t.Errorf("a second Open returned %v, want ErrLocked", err)
	}
	closeAll(t, store)
	closeAll(t, openStore(t, root, bootA))
}

func TestFormatVersion(t *testing.T) {
	for _, test := range []struct {
		name, version string
		kept          bool
		err           string
	}{
		{"this one", "1\n", true, ""},
		{"older", "0\n", false, ""},
		{"unreadable", "?", false, ""},
		{"empty", "", false, ""},
		{"newer", "2\n", true, "format version is 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			store := openStore(t, root, bootA)
			smp := newSample("layer", 4096)
			closeAll(t, smp.create(t, store), store)
			if err := os.WriteFile(filepath.Join(root, "layers", "format"), []byte(test.version), 0o600); err != nil {
				t.Fatal(err)
			}
			store, err := open(root, bootA)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("Open returned %v, want %q", err, test.err)
				}
			} else {
				if err != nil {
					t.Fatal(err)
				}
				closeAll(t, store)
			}
			if _, err := os.Stat(layerPath(root, smp.digest)); (err == nil) != test.kept {
				t.Errorf("layer kept: %v, want %v", err == nil, test.kept)
			}
		})
	}
}

func layerPath(root string, d digest.Digest) string {
	return (&Store{dir: filepath.Join(root, "layers")}).layerDir(d)
}

func TestConcurrentUse(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	sizes := make([]int, 700)
	for i := range sizes {
		sizes[i] = 1 + i*7
	}
	smp := newSample("layer", sizes...)
	const workers = 8
	used := make(chan *Layer, workers)
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			l, err := store.Create(smp.digest, smp.info(), smp.build)
			if err != nil {
				t.Error(err)
				return
			}
			for k := range smp.data {
				i := (k*31 + worker*97) % len(smp.data)
				if !l.Has(i) {
					if err := l.Put(i, smp.data[i]); err != nil {
						t.Error(err)
					}
				}
			}
			used <- l
		})
	}
	wg.Wait()
	close(used)
	for l := range used {
		if !l.Complete() { // whoever finds the last chunk there may be earlier than who counts it
			t.Error("all chunks put, yet not complete")
		}
		closeAll(t, l)
	}
	l, err := store.Get(smp.digest)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]int, len(smp.data))
	for i := range all {
		all[i] = i
	}
	smp.check(t, l, all...)
	closeAll(t, l, store)
}

func TestOpenClearsLeftovers(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	half := filepath.Join(store.tempDir(), "layer-123")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	closeAll(t, store)
	closeAll(t, openStore(t, root, bootA))
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half-made layer is still there: %v", err)
	}
}

func TestUnwritableRoot(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("Open below a file returned %v, want an error that names it", err)
	}
}

func BenchmarkHas(b *testing.B) {
	store, err := open(b.TempDir(), bootA)
	if err != nil {
		b.Fatal(err)
	}
	smp := newSample("layer", 4096)
	l, err := store.Create(smp.digest, smp.info(), smp.build)
	if err != nil {
		b.Fatal(err)
	}
	if err := l.Put(0, smp.data[0]); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !l.Has(l.Find(17)) {
			b.Fatal("absent")
		}
	}
}
