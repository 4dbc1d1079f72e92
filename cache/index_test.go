package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"testing"

	"github.com/opencontainers/go-digest"
)

// layerOf is a sample with chunks of these contents.
func layerOf(name string, contents ...[]byte) sample {
	s := sample{digest: digest.FromString(name), data: contents}
	blob := int64(0)
	for _, p := range contents {
		n := int64(len(p))
		s.chunks = append(s.chunks, Chunk{DataOffset: s.size, Size: n, BlobOffset: blob, BlobSize: n + 20, Digest: sha256.Sum256(p)})
		s.size += (n + 4095) &^ 4095
		blob += n + 20
	}
	return s
}

// noise is n random bytes, the same for the same seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(p)
	return p
}

// writeIndex makes an index of records as they are.
func writeIndex(t *testing.T, dir string, prefixes []uint64, chunks []uint32) index {
	t.Helper()
	b := indexRecords.header(len(prefixes))
	for i, p := range prefixes {
		b = binary.LittleEndian.AppendUint64(b, p)
		b = binary.LittleEndian.AppendUint32(b, chunks[i])
	}
	if err := os.WriteFile(filepath.Join(dir, indexName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := openIndex(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.unmap(); err != nil {
			t.Error(err)
		}
	})
	return x
}

// TestIndexFind compares searches with those of package sort, in indexes whose prefixes lie as digests do, and as they never do.
func TestIndexFind(t *testing.T) {
	const most = ^uint64(0)
	rnd := rand.New(rand.NewPCG(1, 2))
	spread := func(n int, make func() uint64) []uint64 {
		p := []uint64(nil)
		for range n {
			p = append(p, make())
		}
		slices.Sort(p)
		return p
	}
	for name, prefixes := range map[string][]uint64{
		"empty":         nil,
		"one":           {7 << 60},
		"ends":          {0, most},
		"even":          spread(10_000, rnd.Uint64),
		"all low":       spread(5000, func() uint64 { return rnd.Uint64N(1000) }),
		"all high":      spread(5000, func() uint64 { return most - rnd.Uint64N(1000) }),
		"all the same":  spread(5000, func() uint64 { return 1 << 63 }),
		"in two places": spread(5000, func() uint64 { return rnd.Uint64N(2)*(most-10) + rnd.Uint64N(10) }),
	} {
		t.Run(name, func(t *testing.T) {
			x := writeIndex(t, t.TempDir(), prefixes, make([]uint32, len(prefixes)))
			wanted := append([]uint64{0, 1, 1 << 63, most - 1, most}, prefixes...)
			for range 1000 {
				wanted = append(wanted, rnd.Uint64())
			}
			for _, p := range wanted {
				for _, from := range []int{0, len(prefixes) / 3} {
					want := max(from, sort.Search(len(prefixes), func(i int) bool { return prefixes[i] >= p }))
					if got := x.find(from, p); got != want {
						t.Fatalf("find(%d, %x) = %d, want %d of %d", from, p, got, want, len(prefixes))
					}
				}
			}
		})
	}
}

// TestIndexDisorder searches where nothing is in order: searches end, and inside.
func TestIndexDisorder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	prefixes := make([]uint64, 3000)
	for i := range prefixes {
		prefixes[i] = rnd.Uint64()
	}
	dir, other := t.TempDir(), t.TempDir()
	x := writeIndex(t, dir, prefixes, make([]uint32, len(prefixes)))
	y := writeIndex(t, other, prefixes[:100], make([]uint32, 100))
	for range 10_000 {
		if at := x.find(0, rnd.Uint64()); at < 0 || at > x.count {
			t.Fatalf("found at %d of %d", at, x.count)
		}
	}
	x.meet(&y, func(int) {})
	y.meet(&x, func(int) {})
}

// TestIndexMeet counts what two indexes have in common, whichever is the longer.
func TestIndexMeet(t *testing.T) {
	long := make([]uint64, 5000)
	numbers := make([]uint32, len(long))
	for i := range long {
		long[i], numbers[i] = uint64(i)<<48|1, uint32(i)
	}
	short := []uint64{0, long[17], long[17] + 1, long[4000], ^uint64(0)}
	x := writeIndex(t, t.TempDir(), long, numbers)
	y := writeIndex(t, t.TempDir(), short, []uint32{0, 1, 2, 3, 4})
	var ofLong, ofShort []int
	x.meet(&y, func(i int) { ofLong = append(ofLong, i) })
	y.meet(&x, func(i int) { ofShort = append(ofShort, i) })
	if !slices.Equal(ofLong, []int{17, 4000}) || !slices.Equal(ofShort, []int{1, 3}) {
		t.Errorf("in common: %v and %v", ofLong, ofShort)
	}
}

// TestIndexOfLayer finds all chunks of a layer, and none where digests only begin alike.
func TestIndexOfLayer(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	defer closeAll(t, store)
	contents := [][]byte{noise(1, 100), noise(2, 5000), noise(1, 100), noise(3, 4096)}
	l := layerOf("a", contents...).create(t, store)
	defer closeAll(t, l)
	for i, p := range contents {
		want := []int{i}
		if i%2 == 0 && i < 3 {
			want = []int{0, 2}
		}
		if got := l.withDigest(sha256.Sum256(p)); !slices.Equal(got, want) {
			t.Errorf("chunk %d is found as %v, want %v", i, got, want)
		}
	}
	alike := sha256.Sum256(contents[1])
	alike[31]++
	if got := l.withDigest(alike); got != nil {
		t.Errorf("a digest that begins like that of chunk 1 is found as %v", got)
	}
}

// TestIndexMisplaced: what is no file goes when its layer is opened.
func TestIndexMisplaced(t *testing.T) {
	for _, how := range []string{"fifo", "directory", "symlink", "loop"} {
		t.Run(how, func(t *testing.T) {
			store := openStore(t, t.TempDir(), bootA)
			defer closeAll(t, store)
			smp := layerOf("a", noise(1, 5000))
			closeAll(t, smp.create(t, store))
			name := filepath.Join(store.layerDir(smp.digest), indexName)
			if err := tamperings[how](name); err != nil {
				t.Fatal(err)
			}
			l, err := store.Get(smp.digest)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
			closeAll(t, l)
		})
	}
}
