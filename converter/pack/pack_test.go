package pack

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// TestAsEstargz: but for what it is not able to, and the empty blocks that it ends members with, estargz.Build does the same.
func TestAsEstargz(t *testing.T) {
	for name, k := range kinds() {
		for seed := range uint64(25) {
			rng := rand.New(rand.NewPCG(1, seed))
			raw := tarOf(t, randomTar(rng)...)
			tr, at := normalised(t, raw)
			o := Options{First: randomFirst(rng, tr), ChunkSize: 8192, Compressor: k.compressor}
			if name == "gzip" && rng.IntN(2) == 0 {
				o.MinChunkSize = int64(1 + rng.IntN(20000))
			}
			var missed []string
			b, err := estargz.Build(io.NewSectionReader(at, 0, at.Size()), estargz.WithParallelism(1), estargz.WithChunkSize(int(o.ChunkSize)),
				estargz.WithMinChunkSize(int(o.MinChunkSize)), estargz.WithPrioritizedFiles(o.First), estargz.WithAllowPrioritizeNotFound(&missed),
				estargz.WithCompression(struct {
					estargz.Compressor
					estargz.Decompressor
				}{k.compressor, k.decompress}))
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := io.ReadAll(b)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			packed, ours := mustPack(t, raw, o)
			if !slices.Equal(packed.Skipped, missed) {
				t.Errorf("%s, seed %d: skipped %q, want %q", name, seed, packed.Skipped, missed)
			}
			want, got := tocOf(t, k, theirs), tocOf(t, k, ours)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s, seed %d: the TOC is\n%s\nwant\n%s", name, seed, got, want)
			}
			if p, w := beforeTOC(t, k.plain(t, ours)), beforeTOC(t, k.plain(t, theirs)); !bytes.Equal(p, w) {
				t.Fatalf("%s, seed %d: another tar: %d bytes, want %d", name, seed, len(p), len(w))
			}
		}
	}
}

// tocOf is the entries of a blob's TOC, one a line. Without those of members that are shared, offsets are left out; so is the size of a
// chunk that ends its file.
func tocOf(t testing.TB, k kind, blob []byte) string {
	t.Helper()
	toc, _ := parse(t, k, blob)
	inner := slices.ContainsFunc(toc.Entries, func(e *estargz.TOCEntry) bool { return e.InnerOffset > 0 })
	size := int64(0)
	var lines strings.Builder
	for _, e := range toc.Entries {
		if e.Type == "reg" {
			size = e.Size
		}
		if e.ChunkOffset+e.ChunkSize == size {
			e.ChunkSize = 0
		}
		if !inner {
			e.Offset = 0
		}
		line, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(append(line, '\n'))
	}
	return lines.String()
}

func parse(t testing.TB, k kind, blob []byte) (*estargz.JTOC, digest.Digest) {
	t.Helper()
	footer := int64(len(blob)) - k.decompress.FooterSize()
	_, off, size, err := k.decompress.ParseFooter(blob[footer:])
	if err != nil {
		t.Fatal(err)
	}
	toc, d, err := k.decompress.ParseTOC(bytes.NewReader(blob[off:cmp.Or(off+size, footer)]))
	if size == 0 {
		toc, d, err = k.decompress.ParseTOC(bytes.NewReader(blob[off:footer]))
	}
	if err != nil {
		t.Fatal(err)
	}
	return toc, d
}

// beforeTOC is a tar up to the TOC, if it has one.
func beforeTOC(t testing.TB, plain []byte) []byte {
	t.Helper()
	r := bytes.NewReader(plain)
	tr := tar.NewReader(r)
	end := len(plain)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return plain[:end]
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == estargz.TOCTarName {
			return plain[:len(plain)-r.Len()-512]
		}
	}
}

// randomEdges has offsets for some files, out of order of any chunk size, and some that are not inside.
func randomEdges(rng *rand.Rand, headers []*tar.Header) map[string][]int64 {
	edges := make(map[string][]int64)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg && rng.IntN(2) == 0 {
			for range rng.IntN(6) {
				edges[h.Name] = append(edges[h.Name], rng.Int64N(h.Size+100))
			}
			slices.Sort(edges[h.Name])
		}
	}
	return edges
}

// TestReadsBack: whatever the edges and the sizes, the library reads every file, of the chunks that were asked for.
func TestReadsBack(t *testing.T) {
	for name, k := range kinds() {
		for seed := range uint64(25) {
			rng := rand.New(rand.NewPCG(2, seed))
			headers := randomTar(rng)
			tr, _ := normalised(t, tarOf(t, headers...))
			o := Options{
				First: randomFirst(rng, tr), Edges: randomEdges(rng, headers), ChunkSize: 1 + rng.Int64N(20000), Compressor: k.compressor,
			}
			if name == "gzip" && rng.IntN(2) == 0 {
				o.MinChunkSize = 1 + rng.Int64N(30000)
			}
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) { readBack(t, k, headers, o) })
		}
	}
}

func readBack(t *testing.T, k kind, headers []*tar.Header, o Options) {
	packed, blob := mustPack(t, tarOf(t, headers...), o)
	if plain := k.plain(t, blob); digest.FromBytes(plain) != packed.DiffID || int64(len(plain)) != packed.UncompressedSize {
		t.Errorf("diffID %s of %d bytes, decompressed %s of %d", packed.DiffID, packed.UncompressedSize, digest.FromBytes(plain), len(plain))
	}
	raw, d := parse(t, k, blob)
	if d != packed.TOCDigest {
		t.Errorf("TOC %s, said to be %s", d, packed.TOCDigest)
	}
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))), estargz.WithDecompressors(k.decompress))
	if err != nil {
		t.Fatal(err)
	}
	var verify estargz.TOCEntryVerifier
	if o.MinChunkSize == 0 { // the library's verifier knows one chunk per member only
		if verify, err = r.VerifyTOC(packed.TOCDigest); err != nil {
			t.Fatal(err)
		}
	}
	last := make(map[string]*tar.Header)
	for _, h := range headers {
		last[h.Name] = h
	}
	for name, h := range last {
		if h.Typeflag != tar.TypeReg {
			continue
		}
		want := content(h)
		f, err := r.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
		if e, _ := r.Lookup(name); e.Digest != digest.FromBytes(want).String() {
			t.Errorf("%s: digest %s", name, e.Digest)
		}
		var begins []int64
		for off := int64(0); off < h.Size; {
			e, ok := r.ChunkEntryForOffset(name, off)
			if !ok || e.ChunkOffset != off || e.ChunkSize <= 0 || e.ChunkSize > o.ChunkSize {
				t.Fatalf("%s: chunk at %d: %+v", name, off, e)
			}
			begins = append(begins, off)
			piece := want[off : off+e.ChunkSize]
			if digest.FromBytes(piece).String() != e.ChunkDigest {
				t.Errorf("%s: chunk at %d: wrong digest", name, off)
			}
			if verify != nil {
				v, err := verify.Verifier(e)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := v.Write(piece); err != nil || !v.Verified() {
					t.Errorf("%s: chunk at %d: not verified, %v", name, off, err)
				}
			}
			if again, ok := r.ChunkEntryForOffset(name, off+e.ChunkSize-1); !ok || again != e {
				t.Errorf("%s: the chunk at %d does not end at %d", name, off, off+e.ChunkSize)
			}
			off += e.ChunkSize
		}
		if want := expected(h.Size, o.ChunkSize, o.Edges[name]); !slices.Equal(begins, want) {
			t.Errorf("%s: chunks at %v, want %v", name, begins, want)
		}
	}
	checkLandmark(t, raw, o)
}

// expected is where chunks begin: at the edges, and every so many bytes from each on.
func expected(size, chunk int64, edges []int64) []int64 {
	begins := make(map[int64]bool)
	bounds := append(append([]int64{0}, edges...), size)
	for i, from := range bounds[:len(bounds)-1] {
		for off := from; off < min(bounds[i+1], size); off += chunk {
			begins[off] = true
		}
	}
	return slices.Sorted(maps.Keys(begins))
}

// checkLandmark: what comes first ends where the landmark's member begins, and all else comes after it.
func checkLandmark(t *testing.T, toc *estargz.JTOC, o Options) {
	t.Helper()
	name := estargz.NoPrefetchLandmark
	if len(o.First) > 0 {
		name = estargz.PrefetchLandmark
	}
	at := slices.IndexFunc(toc.Entries, func(e *estargz.TOCEntry) bool { return e.Name == name })
	if at < 0 {
		t.Fatalf("no %s", name)
	}
	mark := toc.Entries[at]
	if mark.InnerOffset != 0 || mark.Digest != digest.FromBytes([]byte{0xf}).String() {
		t.Errorf("landmark %+v", mark)
	}
	for i, e := range toc.Entries {
		if e.Type == "reg" && e.Size > 0 && (i < at) != (e.Offset < mark.Offset) {
			t.Errorf("%s is at %d, the landmark at %d", e.Name, e.Offset, mark.Offset)
		}
	}
	for _, first := range o.First {
		for i, e := range toc.Entries[at+1:] {
			if path.Clean(e.Name) == first && e.Type == "reg" && hasParents(toc, first) {
				t.Errorf("%s, which comes first, is %d behind the landmark", first, i)
			}
		}
	}
}

func hasParents(toc *estargz.JTOC, name string) bool {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if !slices.ContainsFunc(toc.Entries, func(e *estargz.TOCEntry) bool { return path.Clean(e.Name) == dir }) {
			return false
		}
	}
	return true
}

// TestOrder has the cases of which one looks at each.
func TestOrder(t *testing.T) {
	dir := func(name string) *tar.Header { return node(tar.TypeDir, name, "") }
	link := func(name, to string) *tar.Header { return node(tar.TypeLink, name, to) }
	const mark = estargz.PrefetchLandmark
	for _, tt := range []struct {
		name          string
		tar           []*tar.Header
		first         []string
		want, skipped string
	}{
		{"nothing", []*tar.Header{file("a", 1)}, nil, estargz.NoPrefetchLandmark + " a", ""},
		{"order of the list", []*tar.Header{file("a", 1), file("b", 1), file("c", 1)}, []string{"c", "a"}, "c a " + mark + " b", ""},
		{"folders first", []*tar.Header{dir("./"), dir("d/"), file("x", 1), dir("d/e/"), file("d/e/f", 1)}, []string{"d/e/f"},
			" d d/e d/e/f " + mark + " x", ""},
		{"no folder", []*tar.Header{file("d/f", 1), file("g", 1)}, []string{"d/f", "g"}, "g " + mark + " d/f", "d/f"},
		{"target of a link", []*tar.Header{dir("d/"), file("x", 1), file("d/f", 1), link("l", "./d/f")}, []string{"l"}, "d d/f l " + mark + " x", ""},
		{"no target", []*tar.Header{dir("d/"), link("d/l", "f"), file("x", 1)}, []string{"d/l", "d/l"}, "d " + mark + " d/l x", "d/l d/l"},
		{"target without folder", []*tar.Header{file("d/f", 1), link("l", "d/f")}, []string{"d/f", "l"}, mark + " d/f l", "d/f l"},
		{"links in a circle", []*tar.Header{link("a", "b"), link("b", "c"), link("c", "a")}, []string{"a"}, "c b a " + mark, ""},
		{"all skipped", []*tar.Header{file("a", 1)}, []string{"b"}, mark + " a", "b"},
		{"the last of a name", []*tar.Header{file("a", 1), file("b", 1), file("a", 2)}, []string{"b"}, "b " + mark + " a", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr, _ := normalised(t, tarOf(t, tt.tar...))
			sorted, skipped, err := tr.order(tt.first)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range sorted {
				names = append(names, e.name)
			}
			if got := strings.Join(names, " "); got != tt.want || strings.Join(skipped, " ") != tt.skipped {
				t.Errorf("%q, skipped %q, want %q and %q", got, skipped, tt.want, tt.skipped)
			}
		})
	}
}

// TestSameBlob: the number of cores changes nothing, nor does who else uses the memory.
func TestSameBlob(t *testing.T) {
	var headers []*tar.Header
	for i := range 100 {
		headers = append(headers, file(fmt.Sprint(i), int64(9*i*i)), node(tar.TypeSymlink, fmt.Sprint("l", i), "x"))
	}
	raw := tarOf(t, append(headers, file("big", 3<<20))...)
	for name, k := range kinds() {
		for _, least := range []int64{0, 100000} {
			if least > 0 && name != "gzip" {
				continue
			}
			o := Options{First: []string{"big"}, Edges: map[string][]int64{"big": {4096, 1 << 20}}, ChunkSize: 100000, MinChunkSize: least, Compressor: k.compressor}
			_, want := mustPack(t, raw, o)
			o.Memory = NewMemory()
			for _, procs := range []int{1, 2, 5} {
				old := runtime.GOMAXPROCS(procs)
				_, got := mustPack(t, raw, o)
				runtime.GOMAXPROCS(old)
				if !bytes.Equal(got, want) {
					t.Errorf("%s, at least %d bytes, GOMAXPROCS %d: %d bytes, other than the %d", name, least, procs, len(got), len(want))
				}
			}
		}
	}
}

// TestManyHeaders has a layer of links be several members, so that none is large.
func TestManyHeaders(t *testing.T) {
	var headers []*tar.Header
	for i := range 3 * mostHeaders / 512 {
		headers = append(headers, node(tar.TypeSymlink, fmt.Sprint(i), "x"))
	}
	tr, at := normalised(t, tarOf(t, headers...))
	sorted, _, err := tr.order(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := plan{sorted: sorted, tar: at, uname: make(map[int]string), gname: make(map[int]string), chunkSize: 1}
	n, bytes := 0, int64(0)
	for s := range p.segments {
		if n++; s.size > mostHeaders+1024 {
			t.Errorf("%d bytes in one", s.size)
		}
		bytes += s.size
	}
	if n != 5 || bytes != at.Size()+1024 { // of headers before the landmark, and from it on
		t.Errorf("%d segments of %d bytes, want 5 of %d", n, bytes, at.Size()+1024)
	}
	for _, k := range kinds() {
		readBack(t, k, headers, Options{ChunkSize: 1, Compressor: k.compressor})
	}
}
