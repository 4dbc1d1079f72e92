package pack

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
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
	"sync"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

var when = time.Date(2021, 2, 3, 4, 5, 6, 0, time.UTC)

// tarOf packs headers, files with n bytes that say which file they are of.
func tarOf(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		if h.ModTime.IsZero() {
			h.ModTime = when
		}
		err := tw.WriteHeader(h)
		if err == nil {
			_, err = tw.Write(content(h))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// content is what tarOf gives a file: noise, so that no two chunks are the same.
func content(h *tar.Header) []byte {
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	p := make([]byte, h.Size)
	seed := [32]byte{byte(h.Size), byte(h.Mode)}
	copy(seed[2:], h.Name)
	_, _ = rand.NewChaCha8(seed).Read(p)
	return p
}

func file(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}
}

func node(typeflag byte, name, link string) *tar.Header {
	return &tar.Header{Typeflag: typeflag, Name: name, Linkname: link, Mode: 0o755}
}

// normalised is a tar as Pack takes it, and what is known of it.
func normalised(t testing.TB, raw []byte) (*Tar, *bytes.Reader) {
	t.Helper()
	var b bytes.Buffer
	tr, err := Normalise(&b, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return tr, bytes.NewReader(b.Bytes())
}

func mustPack(t testing.TB, raw []byte, o Options) (*Packed, []byte) {
	t.Helper()
	tr, at := normalised(t, raw)
	var blob bytes.Buffer
	packed, err := tr.Pack(t.Context(), at, &blob, o)
	if err != nil {
		t.Fatal(err)
	}
	return packed, blob.Bytes()
}

// kind is a compressor and how to read what it makes.
type kind struct {
	compressor estargz.Compressor
	decompress estargz.Decompressor
}

func kinds() map[string]kind {
	return map[string]kind{
		"gzip": {newGzip(gzip.BestSpeed), new(estargz.GzipDecompressor)},
		"zstd": {&zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest}, new(zstdchunked.Decompressor)},
	}
}

// pooled is estargz's gzip, but that one member's encoder, which is a megabyte, is the next one's.
type pooled struct {
	estargz.Compressor
	level int
	idle  sync.Pool
}

func newGzip(level int) estargz.Compressor {
	return &pooled{Compressor: estargz.NewGzipCompressorWithLevel(level), level: level}
}

func (c *pooled) Writer(w io.Writer) (estargz.WriteFlushCloser, error) {
	if z, ok := c.idle.Get().(*gzip.Writer); ok {
		z.Reset(w)
		return &pooledWriter{z, c}, nil
	}
	z, err := gzip.NewWriterLevel(w, c.level)
	return &pooledWriter{z, c}, err
}

type pooledWriter struct {
	*gzip.Writer
	of *pooled
}

func (w *pooledWriter) Close() error {
	defer w.of.idle.Put(w.Writer)
	return w.Writer.Close()
}

func (k kind) plain(t testing.TB, blob []byte) []byte {
	t.Helper()
	r, err := k.decompress.Reader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// randomTar has folders, files, links to earlier ones, owners, xattrs, names that come again, and no folders for some.
func randomTar(rng *rand.Rand) []*tar.Header {
	var headers []*tar.Header
	linked := make(map[string]bool)
	var names []string
	for i := range 5 + rng.IntN(60) {
		dir := []string{"", "a/", "a/b/", "no/"}[rng.IntN(4)]
		h := &tar.Header{Name: fmt.Sprintf("%s%d", dir, i), Mode: int64(rng.IntN(0o7777)), Uid: rng.IntN(3), Gid: rng.IntN(2), ModTime: when.Add(time.Duration(i) * time.Hour)}
		h.Uname, h.Gname = []string{"", "u", "v"}[rng.IntN(3)], []string{"", "g"}[rng.IntN(2)]
		if rng.IntN(5) == 0 {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "a\x00b", "SCHILY.xattr.user.empty": "e"}
		}
		h.Typeflag = []byte{tar.TypeReg, tar.TypeReg, tar.TypeReg, tar.TypeReg, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeFifo}[rng.IntN(8)]
		switch h.Typeflag {
		case tar.TypeReg:
			h.Size = []int64{0, 1, 511, 512, 1000, 4096, 10000, 30000, 40000}[rng.IntN(9)]
			if len(names) > 0 && rng.IntN(8) == 0 {
				if again := names[rng.IntN(len(names))]; !linked[again] {
					h.Name = again
				}
			}
			names = append(names, h.Name)
		case tar.TypeSymlink:
			h.Linkname = "../x"
		case tar.TypeChar:
			h.Devmajor, h.Devminor = 1, int64(i)
		case tar.TypeLink:
			if len(names) == 0 {
				continue
			}
			h.Linkname = names[rng.IntN(len(names))]
			linked[h.Linkname] = true
		}
		headers = append(headers, h)
	}
	dirs := []*tar.Header{node(tar.TypeDir, "a/", ""), node(tar.TypeDir, "a/b/", "")}
	if rng.IntN(2) == 0 {
		dirs = append([]*tar.Header{node(tar.TypeDir, "./", "")}, dirs...)
	}
	return append(dirs, headers...)
}

// randomFirst is some of the names, and some that are not there.
func randomFirst(rng *rand.Rand, tr *Tar) (first []string) {
	if rng.IntN(4) == 0 {
		return nil
	}
	names := tr.Names()
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return append(slices.DeleteFunc(names, func(s string) bool { return s == "" })[:rng.IntN(len(names)-1)], "not/there")
}

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
