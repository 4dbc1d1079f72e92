package converter_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter"
	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/converter/prefetch"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

var host = platforms.DefaultSpec()

// TestMain gives the tests a temporary folder of their own, which must be empty in the end.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "converter-test")
	if err != nil {
		panic(err)
	}
	tests := filepath.Join(dir, "tests") // t.TempDir is below the temporary folder as well
	if err := os.Mkdir(tests, 0o755); err != nil {
		panic(err)
	}
	if err := os.Setenv("TMPDIR", tests); err != nil {
		panic(err)
	}
	code := m.Run()
	left, err := filepath.Glob(filepath.Join(tests, "*"))
	if code == 0 && (err != nil || len(left) > 0) {
		println("left behind:", strings.Join(left, " "))
		code = 1
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// formats are those that can be written, with what each adds to the tar of everything.
var formats = map[toc.Format][]string{
	toc.EStargz:     {"/" + estargz.TOCTarName, "/" + estargz.NoPrefetchLandmark},
	toc.ZstdChunked: {"/" + estargz.NoPrefetchLandmark},
}

func TestTreeIsTheSame(t *testing.T) {
	for format, added := range formats {
		for _, compression := range []string{"gzip", "zstd", ""} {
			t.Run("from "+compression+" to "+string(format), func(t *testing.T) {
				src := newLayout(t)
				plain := everything(t)
				src.tag(src.image(host, testLayer{tar: plain, compression: compression}))
				out, report := convertTo(t, src.source(), converter.Options{Format: format, ChunkSize: 64 << 10})
				sameEntries(t, out.read(report.Layers[0].Target), plain, added)
			})
		}
	}
}

// sameEntries compares a converted tar with the source's.
func sameEntries(t *testing.T, blob, plain []byte, added []string) {
	t.Helper()
	got, want := entriesOf(t, blob), entriesOf(t, plain)
	for _, extra := range added {
		if _, ok := got[extra]; !ok {
			t.Errorf("%s is missing", extra)
		}
		delete(got, extra)
	}
	for name, w := range want {
		if g, ok := got[name]; !ok || !reflect.DeepEqual(g, w) {
			t.Errorf("%s: got %+v, want %+v", name, g, w)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("entries that the source has not: %v", got)
	}
}

// TestSparse has files with holes come out whole; GNU tar wrote the archive.
func TestSparse(t *testing.T) {
	for _, format := range []string{"gnu", "pax"} {
		t.Run(format, func(t *testing.T) {
			plain, err := os.ReadFile(filepath.Join("testdata", "sparse-"+format+".tar"))
			if err != nil {
				t.Fatal(err)
			}
			src := newLayout(t)
			src.tag(src.image(host, testLayer{tar: plain}))
			out, report := convertTo(t, src.source(), converter.Options{})
			got := entriesOf(t, out.read(report.Layers[0].Target))["/holes"]
			want := make([]byte, 1<<20)
			copy(want[512<<10:], "middle")
			if got.content != string(want) || got.Typeflag != '0' {
				t.Errorf("got type %c, %d bytes, equal %t", got.Typeflag, len(got.content), got.content == string(want))
			}
		})
	}
}

// TestEstargzLibraryAgrees reads what was built with the reference implementation.
func TestEstargzLibraryAgrees(t *testing.T) {
	for name, o := range map[string]converter.Options{
		"default":        {ChunkSize: 64 << 10},
		"min chunk size": {ChunkSize: 64 << 10, MinChunkSize: 100 << 10},
		"stored":         {CompressionLevel: new(0)},
		"zstd:chunked":   {Format: toc.ZstdChunked, ChunkSize: 64 << 10},
		"zstd, fast":     {Format: toc.ZstdChunked, CompressionLevel: new(1)},
		"zstd, best":     {Format: toc.ZstdChunked, CompressionLevel: new(22)},
	} {
		t.Run(name, func(t *testing.T) {
			src := newLayout(t)
			src.tag(src.image(host, testLayer{tar: everything(t), compression: "gzip"}))
			out, report := convertTo(t, src.source(), o)
			blob := out.read(report.Layers[0].Target)
			r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))),
				estargz.WithDecompressors(new(zstdchunked.Decompressor)))
			if err != nil {
				t.Fatal(err)
			}
			// The library's own verifier knows one chunk per stream only.
			if _, err := r.VerifyTOC(report.Layers[0].TOC); err != nil && o.MinChunkSize == 0 {
				t.Fatal(err)
			}
			if r.TOCDigest() != report.Layers[0].TOC {
				t.Errorf("TOC digest %s, want %s", r.TOCDigest(), report.Layers[0].TOC)
			}
			for path, e := range entriesOf(t, blob) {
				if e.Typeflag != '0' || path == "/"+estargz.TOCTarName {
					continue
				}
				listed, ok := r.Lookup(strings.TrimPrefix(path, "/"))
				if path != "/"+estargz.NoPrefetchLandmark && (!ok || !listed.ModTime().Equal(e.ModTime)) {
					t.Errorf("%s: the TOC says %+v, the tar %s", path, listed, e.ModTime)
				}
				f, err := r.OpenFile(strings.TrimPrefix(path, "/"))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(f)
				if err != nil || string(got) != e.content {
					t.Errorf("%s: %d bytes of %d, %v", path, len(got), len(e.content), err)
				}
			}
		})
	}
}

func TestSameDigestsEverywhere(t *testing.T) {
	for format := range formats {
		t.Run(string(format), func(t *testing.T) { testSameDigests(t, format) })
	}
}

func testSameDigests(t *testing.T, format toc.Format) {
	src := newLayout(t)
	var many []entry
	for i := range 1500 { // a TOC of several of zstd's blocks
		many = append(many, node(tar.TypeSymlink, fmt.Sprintf("many/%d", i), fmt.Sprint(i*i)))
	}
	var index ocispec.Index
	for _, arch := range []string{"amd64", "arm64"} {
		p := ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, src.image(p,
			testLayer{tar: everything(t), compression: "gzip"},
			testLayer{tar: tarOf(t, many...), compression: "gzip"},
			testLayer{tar: tarOf(t, file("arch", arch)), compression: "zstd"}))
	}
	src.tag(src.json(ocispec.MediaTypeImageIndex, index))
	o := converter.Options{Selection: image.Selection{All: true}, ChunkSize: 10000, Format: format}

	_, want := convertTo(t, src.source(), o)
	for _, procs := range []int{1, 2, 5} {
		old := runtime.GOMAXPROCS(procs)
		_, got := convertTo(t, src.source(), o)
		runtime.GOMAXPROCS(old)
		if got.Digest != want.Digest {
			t.Errorf("GOMAXPROCS %d: %s, want %s", procs, got.Digest, want.Digest)
		}
	}

	// Through an archive: the source first, then its conversion.
	archive := filepath.Join(t.TempDir(), "image.tar")
	dst, err := endpoint.NewArchiveTarget(archive, "x")
	if err != nil {
		t.Fatal(err)
	}
	got, err := converter.Convert(t.Context(), src.source(), dst, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	if got.Digest != want.Digest {
		t.Errorf("to an archive: %s, want %s", got.Digest, want.Digest)
	}
	from, err := endpoint.NewArchiveSource(archive, "x")
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, from)
	o.Reuse = true
	if _, got = convertTo(t, from, o); got.Digest != want.Digest {
		t.Errorf("reused from an archive: %s, want %s", got.Digest, want.Digest)
	}
	o.Reuse = false
	if _, got = convertTo(t, from, o); got.Digest != want.Digest {
		t.Errorf("converted twice: %s, want %s", got.Digest, want.Digest)
	}

	// By way of the other format.
	for o.Format = range formats {
		if o.Format != format {
			break
		}
	}
	other, _ := convertTo(t, from, o)
	o.Format = format
	if _, got = convertTo(t, other.source(), o); got.Digest != want.Digest {
		t.Errorf("by way of the other format: %s, want %s", got.Digest, want.Digest)
	}
}

func TestPrefetch(t *testing.T) {
	src := newLayout(t)
	src.tag(src.image(host,
		testLayer{tar: tarOf(t, file("a", "1"), node('5', "lib", ""), file("lib/b.so", "22"), file("lib/c.so", "333"),
			node('1', "hard", "a"), file("no/entry/for/parent", ""))},
		testLayer{tar: tarOf(t, file("z", "z"))},
		testLayer{tar: tarOf(t, file("b", "1"), node('5', "etc", ""), file("etc/group", "55555"), file("etc/passwd", "4444"))},
		testLayer{tar: tarOf(t, file("etc/group", "55555"))}))
	list := func(lines string) prefetch.List {
		l, err := prefetch.Parse(strings.NewReader(lines))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	out, report := convertTo(t, src.source(), converter.Options{Prefetch: list("/lib/*.so\nhard\nno/such\nno/entry/for/parent")})
	if !slices.Equal(report.Skipped, []string{"/no/entry/for/parent"}) {
		t.Errorf("skipped: %q", report.Skipped)
	}
	if !slices.Equal(report.Missing, []string{"/no/such"}) {
		t.Errorf("missing: %q", report.Missing)
	}
	// a comes along with its hard link.
	if got := report.Layers[0].PrefetchBytes; got != 6 {
		t.Errorf("prefetch bytes %d, want 6", got)
	}
	blob := out.read(report.Layers[0].Target)
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob))))
	if err != nil {
		t.Fatal(err)
	}
	offset := int64(0)
	for _, name := range []string{"lib/b.so", "lib/c.so", "a", estargz.PrefetchLandmark} {
		e, ok := r.Lookup(name)
		if !ok || e.Offset <= offset {
			t.Errorf("%s: not after the one before it", name)
			continue
		}
		offset = e.Offset
	}
	if _, ok := entriesOf(t, out.read(report.Layers[1].Target))["/"+estargz.NoPrefetchLandmark]; !ok {
		t.Error("the layer without listed files has no landmark that says so")
	}

	// containerd reads these when it starts a container, listed or not.
	if got := report.Layers[2].PrefetchBytes; got != 9 {
		t.Errorf("prefetch bytes of the files with users %d, want 9", got)
	}

	dst, err := endpoint.NewLayoutTarget(filepath.Join(t.TempDir(), "out"), "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = converter.Convert(t.Context(), src.source(), dst, converter.Options{Prefetch: list("no/such"), FailOnMissing: true})
	if err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("FailOnMissing: %v", err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPrefetchRanges: a layer of which parts of files are listed has chunks that end where those do, in whole pages, and says which of those
// that come first are wanted.
func TestPrefetchRanges(t *testing.T) {
	const chunk = 256 << 10
	const wanted = 9*chunk + 3*4096 + 2
	src := newLayout(t)
	big := strings.Repeat("0123456789abcdef", 8*chunk/16)
	src.tag(src.image(host,
		testLayer{tar: tarOf(t, node('5', "lib", ""), file("lib/big", big), file("lib/small", "22"), file("lib/other", big), file("not/listed", big),
			node('1', "lib/link", "lib/big"), file("lib/whole", big), node('1', "lib/alias", "lib/whole"))},
		testLayer{tar: tarOf(t, file("z", "z"))}))
	// A file is what all of its names are: big by its link, whole by its alias.
	lines := fmt.Sprintf("/lib/big\t%d-%d,0-0\nlib/small\nlib/other\t%d-%d\nlib/link\t0-0\nlib/whole\t5-6\nlib/alias\n",
		3*chunk-1, 4*chunk, 8*chunk, 9*chunk)
	list, err := prefetch.Parse(strings.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	said := func(l *layout, r *converter.Report, layer int) string {
		m := manifestOf(l, ocispec.Descriptor{Digest: r.Digest})
		return m.Layers[layer].Annotations[toc.PrefetchAnnotation]
	}
	for _, format := range []toc.Format{toc.EStargz, toc.ZstdChunked} {
		out, report := convertTo(t, src.source(), converter.Options{Prefetch: list, Format: format})
		if got, want := said(out, report, 0), "1,3,2,4,1,8,8"; got != want {
			t.Errorf("%s: the layer says %q, want %q", format, got, want)
		}
		if got := report.Layers[0].PrefetchBytes; got != wanted {
			t.Errorf("%s: prefetch bytes %d, want %d", format, got, wanted)
		}
		if got := said(out, report, 1); got != "" {
			t.Errorf("%s: a layer without listed files says %q", format, got)
		}
		again, report := convertTo(t, out.source(), converter.Options{Reuse: true})
		if got, n := said(again, report, 0), report.Layers[0].PrefetchBytes; got == "" || n != wanted {
			t.Errorf("%s: reused, the layer says %q, and %d bytes", format, got, n)
		}
		again, report = convertTo(t, out.source(), converter.Options{})
		if got := said(again, report, 0); got != "" {
			t.Errorf("%s: converted anew without a list, the layer says %q", format, got)
		}
	}
}

// TestPrefetchSize: a layer says how long its beginning with the list is, if it is worth fetching as a whole.
func TestPrefetchSize(t *testing.T) {
	const chunk = 256 << 10
	src := newLayout(t)
	noise := rand.NewChaCha8([32]byte{})
	big := make([]byte, 8*chunk)
	_, _ = noise.Read(big)
	src.tag(src.image(host, testLayer{tar: tarOf(t, file("big", string(big)), file("other", string(big)))}))
	for _, format := range []toc.Format{toc.EStargz, toc.ZstdChunked} {
		var listed *layout
		for lines, want := range map[string]int64{ // chunks that are not compressible
			"big\n": 8,
			fmt.Sprintf("big\t0-%d,%d-%d\n", 3*chunk-1, 5*chunk, 6*chunk-1): 6,
			fmt.Sprintf("big\t%d-%d\n", 5*chunk, 6*chunk-1):                 0,
			"nothing\n": 0,
		} {
			list, err := prefetch.Parse(strings.NewReader(lines))
			if err != nil {
				t.Fatal(err)
			}
			out, report := convertTo(t, src.source(), converter.Options{Prefetch: list, Format: format})
			got := toc.PrefetchSize(manifestOf(out, ocispec.Descriptor{Digest: report.Digest}).Layers[0].Annotations)
			if got < want*chunk || got > want*chunk+want*4096 {
				t.Errorf("%s, %q: %d bytes, want %d chunks", format, lines, got, want)
			}
			if got > 0 {
				listed = out
			}
		}
		again, report := convertTo(t, listed.source(), converter.Options{})
		if got := toc.PrefetchSize(manifestOf(again, ocispec.Descriptor{Digest: report.Digest}).Layers[0].Annotations); got != 0 {
			t.Errorf("%s: converted anew without a list, the layer says %d", format, got)
		}
	}
}

// TestNoContent has a layer of names alone be a few streams, not one for each, with a temporary file and an encoder for each.
func TestNoContent(t *testing.T) {
	var links []entry
	for i := range 2000 {
		links = append(links, node(tar.TypeSymlink, fmt.Sprintf("links/%d", i), "x"))
	}
	src := newLayout(t)
	src.tag(src.image(host, testLayer{tar: tarOf(t, links...)}))
	for format, magic := range map[toc.Format]string{toc.EStargz: "\x1f\x8b\x08", toc.ZstdChunked: "\x28\xb5\x2f\xfd"} {
		out, report := convertTo(t, src.source(), converter.Options{Format: format})
		if n := bytes.Count(out.read(report.Layers[0].Target), []byte(magic)); n > 10 {
			t.Errorf("%s: %d streams", format, n)
		}
	}
}

func TestReuse(t *testing.T) {
	src := newLayout(t)
	src.tag(src.image(host, testLayer{tar: everything(t), compression: "gzip"}))
	for format := range formats {
		t.Run(string(format), func(t *testing.T) {
			lazy, first := convertTo(t, src.source(), converter.Options{Format: format})
			for wanted := range formats { // a lazy layer stays, whichever format is wanted
				_, second := convertTo(t, lazy.source(), converter.Options{Format: wanted, Reuse: true, CompressionLevel: new(1)})
				l := second.Layers[0]
				if second.Digest != first.Digest || l.Action != converter.Reused || l.Files != first.Layers[0].Files || l.Format != string(format) {
					t.Errorf("reused: %+v", l)
				}
			}
			// A layer whose annotation is not its TOC's digest is not what it says, and built anew.
			var m ocispec.Manifest
			lazy.parse(first.Digest, &m)
			m.Layers[0].Annotations[estargz.TOCJSONDigestAnnotation] = digest.FromString("other").String()
			lazy.tag(lazy.json(ocispec.MediaTypeImageManifest, m))
			_, third := convertTo(t, lazy.source(), converter.Options{Format: format, Reuse: true})
			if third.Layers[0].Action != converter.Converted || third.Layers[0].Target != first.Layers[0].Target {
				t.Errorf("with a wrong annotation: %+v", third.Layers[0])
			}
		})
	}
}

func TestReportIsJSON(t *testing.T) {
	src := newLayout(t)
	src.tag(src.image(host, testLayer{tar: everything(t), compression: "gzip"}))
	_, report := convertTo(t, src.source(), converter.Options{})
	raw, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{`"source":`, `"target":`, `"size":`, `"format":"estargz"`, `"files":`, `"prefetch_bytes":0`, `"seconds":`} {
		if !bytes.Contains(raw, []byte(field)) {
			t.Errorf("no %s in %s", field, raw)
		}
	}
}

func unpacked(t testing.TB, raw []byte) []byte {
	t.Helper()
	plain, err := decompressed(raw)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func ExampleConvert() {
	src, err := endpoint.NewLayoutSource("image", "v1")
	if err != nil {
		return // no such layout
	}
	defer src.Close() // it was only read
	dst, err := endpoint.NewArchiveTarget("lazy.tar", "v1")
	if err != nil {
		return
	}
	defer dst.Close() // after Convert it has nothing left to do but clean up
	level := 6
	report, err := converter.Convert(context.Background(), src, dst, converter.Options{
		Selection:        image.Selection{All: true},
		CompressionLevel: &level,
	})
	if err != nil {
		return
	}
	for _, l := range report.Layers {
		fmt.Println(l.Target)
	}
}
