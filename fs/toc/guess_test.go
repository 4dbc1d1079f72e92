package toc

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/externaltoc"
	"github.com/opencontainers/go-digest"
)

// allKinds has a file of each kind, and headers that are not written in the usual way. Those of users are some that come again.
func allKinds() []member {
	long := strings.Repeat("directory/", 12)
	owned := func(h *tar.Header) { h.Uid, h.Gid, h.Uname, h.Gname = 1000, 100, "alice", "users" }
	members := []member{
		dir("./", 0o755), dir("./bin/", 0o755), reg("./bin/tool", noise(1, 3000)), reg("./bin/one", "x").with(owned), reg("./bin/block", noise(2, 512)),
		link('2', "./bin/sh", "tool"), link('1', "./bin/hard", "./bin/tool"), device('3', "./null", 1, 3), device('4', "./disk", 259, 300),
		device('6', "./fifo", 0, 0), reg("./empty", ""), reg("./bin/two", "y").with(owned), reg("./big", noise(3, 200_000)),
		reg("./"+long+"file", "fits in two fields"), link('2', "./link", long+long),
		reg("./suid", "s").with(func(h *tar.Header) { h.Mode = 0o4755 }),
		reg("./old", "o").with(func(h *tar.Header) { h.ModTime = time.Unix(0, 0) }),
	}
	for i := range 50 {
		members = append(members, link('2', fmt.Sprintf("./many%02d", i), "bin/tool"))
	}
	return append(members, reg("./last", "z"))
}

// onlyPAX are those that no other format has.
func onlyPAX() []member {
	return []member{
		reg("./capable", "c").xattr("security.capability", "\x01\x00\x00\x02\x00"), reg("./grün", "g"),
		reg("./"+strings.Repeat("n", 120), "no two fields have room for it"),
		reg("./huge-id", "h").with(func(h *tar.Header) { h.Uid = 1 << 22 }),
	}
}

// in has headers written in a format.
func in(format tar.Format, members ...member) []member {
	for i := range members {
		members[i].header.Format = format
	}
	return members
}

// pieces are what the streams of a blob have besides chunks, by where they begin; ends are where their last ones end.
func (b blob) pieces(t testing.TB, guessed []int64, payload int64, chunks []Chunk) map[int64][]byte {
	t.Helper()
	of := make(map[int64][]byte)
	for i, at := range guessed {
		end := payload
		if i+1 < len(guessed) {
			end = guessed[i+1]
		}
		var stream []byte
		if at < end {
			r, err := b.format.NewReaderAll(bytes.NewReader(b.bytes[at:end]))
			if err != nil {
				t.Fatal(err)
			}
			if stream, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		piece, pos := []byte{}, int64(0)
		for _, c := range chunks {
			if c.BlobOffset == at {
				piece = append(piece, stream[pos:c.InnerOffset]...)
				pos = c.InnerOffset + c.Size
			}
		}
		of[at] = append(piece, stream[pos:]...)
	}
	return of
}

// guess is all that is guessed of a blob.
func guess(k Kept, s Style) (at []int64, of map[int64]Guessed, err error) {
	of = make(map[int64]Guessed)
	for g, err := range k.Guess(s) {
		if err != nil {
			return nil, nil, err
		}
		g.Piece = bytes.Clone(g.Piece)
		at, of[g.Stream] = append(at, g.Stream), g
	}
	return at, of, nil
}

// rightStyle is the first style in which all that is guessed of a blob is what it has, -1 if there is none.
func (b blob) rightStyle(t testing.TB, w Wanted) int {
	t.Helper()
	w.BlobSize, w.Digest = int64(len(b.bytes)), b.toc
	raw, err := Fetch(bytes.NewReader(b.bytes), w)
	if err != nil {
		t.Fatal(err)
	}
	l, err := raw.Layout()
	if err != nil {
		t.Fatal(err)
	}
	k := Kept{raw.Format, b.toc, bytes.NewReader(raw.Compressed())}
	for i, s := range Styles() {
		at, guessed, err := guess(k, s)
		if err != nil && !errors.Is(err, errPlace) {
			t.Fatal(err)
		}
		want := b.pieces(t, at, raw.PayloadSize, l.Chunks)
		same, chunks := len(at) > 0 && at[0] == 0, 0
		for n, stream := range at {
			g := guessed[stream]
			chunks += g.Chunks
			if n == len(at)-1 { // with the tar's end
				want[stream] = want[stream][:min(len(want[stream]), len(g.Piece))]
			}
			same = same && g.Piece != nil && bytes.Equal(g.Piece, want[stream])
		}
		if same && chunks == len(l.Chunks) {
			return i
		}
	}
	return -1
}

// TestGuess: the headers of tars as they come from the tools that are most used, converted in each way, are guessed to the last byte.
func TestGuess(t *testing.T) {
	nanos := func(h *tar.Header) { h.Format, h.ModTime = tar.FormatPAX, when.Add(123*time.Millisecond) }
	for name, tar := range map[string]struct {
		members []member
		want    int // of Styles
	}{
		"whatever is shortest":  {append(allKinds(), onlyPAX()...), 0},
		"PAX":                   {in(tar.FormatPAX, append(allKinds(), onlyPAX()...)...), 0},
		"GNU":                   {in(tar.FormatGNU, append(allKinds(), onlyPAX()[2:]...)...), 1},
		"records for paths":     {recorded(append(allKinds(), onlyPAX()...)), 2},
		"fractions of a second": {append(allKinds(), reg("./nanos", "n").with(nanos)), -1},
		"a record of others": {append(allKinds(), reg("./foreign", "f").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"VENDOR.key": "value"}
		})), -1},
		"of two kinds": {append(in(tar.FormatGNU, allKinds()...), onlyPAX()...), -1},
		"nothing":      {nil, 0},
		"no contents":  {[]member{dir("d/", 0o755), reg("d/empty", ""), link('2', "l", "d")}, 0},
	} {
		layer := makeTar(t, tar.members...)
		external := externaltoc.NewGzipCompressionWithLevel(nil, 1).(*externaltoc.GzipCompression)
		for kind, options := range map[string][]estargz.Option{
			"estargz":                             {estargz.WithChunkSize(64 << 10)},
			"estargz, several chunks in a member": {estargz.WithChunkSize(64 << 10), estargz.WithMinChunkSize(100 << 10)},
			"estargz, prefetch list":              {estargz.WithPrioritizedFiles([]string{"big"}), estargz.WithAllowPrioritizeNotFound(new([]string))},
			"zstd:chunked":                        {estargz.WithChunkSize(64 << 10), withZstd()},
			"external TOC":                        {estargz.WithCompression(external)},
		} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				b := pack(t, layer, options...)
				if kind == "zstd:chunked" {
					b.format = ZstdChunked
				}
				w := Wanted{External: func() ([]byte, error) {
					var table bytes.Buffer
					_, err := external.WriteTOCTo(&table)
					return table.Bytes(), err
				}}
				if got := b.rightStyle(t, w); got != tar.want {
					t.Errorf("style %d, want %d", got, tar.want)
				}
			})
		}
	}
}

// recorded has all long paths in PAX records, as Python and GNU tar write them.
func recorded(members []member) []member {
	for i := range members {
		h := &members[i].header
		h.Format = tar.FormatPAX
		setRecord(h, "path", h.Name, len(h.Name) > longName)
		setRecord(h, "linkpath", h.Linkname, len(h.Linkname) > longName)
	}
	return members
}

// TestGuessUntouched is of a tar that is kept to the last byte, whose TOC is outside.
func TestGuessUntouched(t *testing.T) {
	for name, members := range map[string][]member{"PAX": in(tar.FormatPAX, allKinds()...), "GNU": in(tar.FormatGNU, allKinds()...)} {
		external := externaltoc.NewGzipCompressionWithLevel(nil, 1).(*externaltoc.GzipCompression)
		var b, table bytes.Buffer
		w := estargz.NewWriterWithCompressor(&b, external)
		if err := w.AppendTarLossLess(bytes.NewReader(makeTar(t, members...))); err != nil {
			t.Fatal(err)
		}
		toc, err := w.Close()
		if err == nil {
			_, err = external.WriteTOCTo(&table)
		}
		if err != nil {
			t.Fatal(err)
		}
		l := blob{b.Bytes(), toc, EStargz}
		if got := l.rightStyle(t, Wanted{External: func() ([]byte, error) { return table.Bytes(), nil }}); got < 0 {
			t.Errorf("%s: no style is right", name)
		}
	}
}

// kept is a TOC of JSON that need not be one.
func kept(t testing.TB, json string) Kept {
	t.Helper()
	return Kept{ZstdChunked, digest.FromString(json), bytes.NewReader(compress(t, ZstdChunked, []byte(json)))}
}

// TestGuessOdd: what cannot be guessed is not, and all else is.
func TestGuessOdd(t *testing.T) {
	e := func(s string) string { return `{"version":1,"entries":[` + s + `]}` }
	file := func(name string, offset, inner int) string {
		return fmt.Sprintf(`{"name":%q,"type":"reg","size":512,"offset":%d,"innerOffset":%d}`, name, offset, inner)
	}
	const block = tarBlock
	for name, tc := range map[string]struct {
		json string
		want []int // bytes of each piece; -1: not guessed
	}{
		"two files":                     {e(file("a", 100, 0) + "," + file("b", 200, 0)), []int{block, block, 0}},
		"in one stream":                 {e(file("a", 100, 0) + "," + file("b", 100, 2*block)), []int{block, block}},
		"a name that JSON has not told": {e(file("a", 100, 0) + "," + file("\ufffd", 200, 0) + "," + file("c", 300, 0)), []int{block, -1, block, 0}},
		"a type that nobody knows": {
			e(file("a", 100, 0) + `,{"name":"s","type":"socket"},` + file("b", 200, 0)), []int{block, -1, 0}},
		"a name with a NUL":   {e(`{"name":"a\u0000","type":"dir"},` + file("b", 100, 0)), []int{-1, 0}},
		"a negative size":     {e(`{"name":"a","type":"reg","size":-5},` + file("b", 100, 0)), []int{-1, 0}},
		"a time that is none": {e(`{"name":"a","type":"dir","modtime":"yesterday"},` + file("b", 100, 0)), []int{-1, 0}},
		"a device of no size": {e(`{"name":"a","type":"char","devMajor":-1,"devMinor":9223372036854775807},` + file("b", 100, 0)), []int{-1, 0}},
		"a small hole": {e(`{"name":"f","type":"reg","size":5000,"offset":50,"chunkSize":1000},
			{"type":"chunk","name":"f","chunkOffset":1000,"chunkType":"zeros"},` + file("b", 100, 0)), []int{block, 4000 + 120 + block, 0}},
		"a large hole": {e(`{"name":"f","type":"reg","size":1099511627776,"chunkType":"zeros"},` + file("b", 100, 0)), []int{-1, 0}},
		"a landmark":   {e(file("a", 100, 0) + `,{"name":".prefetch.landmark","type":"reg","size":1,"offset":200},` + file("b", 300, 0)), []int{block, block, 1024, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			at, guessed, err := guess(kept(t, tc.json), Styles()[0])
			if err != nil {
				t.Fatal(err)
			}
			var got []int
			for _, stream := range at {
				n := -1
				if p := guessed[stream].Piece; p != nil {
					n = len(p)
				}
				got = append(got, n)
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("pieces of %v bytes, want %v", got, tc.want)
			}
		})
	}
	for name, json := range map[string]string{
		"backwards":                     e(file("a", 200, 0) + "," + file("b", 100, 0)),
		"something between them":        e(file("a", 100, 0) + "," + file("b", 100, 3*block)),
		"a stream begins with a header": e(file("a", 100, 0) + "," + file("b", 200, block)),
		"too few chunks":                e(`{"name":"a","type":"reg","size":10,"offset":1,"chunkSize":5},` + file("b", 100, 0)),
		"too many chunks":               e(file("a", 100, 0) + `,{"name":"a","type":"chunk","offset":200,"chunkSize":5}`),
		"a chunk of nobody":             e(`{"name":"a","type":"chunk","offset":200,"chunkSize":5}`),
		"no TOC":                        `[]`,
	} {
		var last error
		for _, last = range kept(t, json).Guess(Styles()[0]) {
			continue
		}
		if last == nil {
			t.Errorf("%s: no error", name)
		}
	}
	k := kept(t, e(file("a", 100, 0)))
	k.Digest = digest.FromString("another")
	var last error
	for _, last = range k.Guess(Styles()[0]) {
		continue
	}
	if !errors.As(last, new(*DigestError)) {
		t.Errorf("another TOC: error %v", last)
	}
	k.Guess(Styles()[0])(func(_ Guessed, err error) bool {
		if err != nil {
			t.Errorf("nothing more was wanted, and %v comes", err)
		}
		return false
	})
}

// FuzzGuess gives Guess any JSON as a TOC: streams come in order, and are bounded.
func FuzzGuess(f *testing.F) {
	f.Add([]byte(asJSONL(f, pack(f, makeTar(f, allKinds()...)).read(f))))
	f.Add([]byte(asJSONL(f, pack(f, makeTar(f, onlyPAX()...), withZstd()).read(f))))
	for _, e := range [][]*entry{
		{sound("f", func(e *entry) { e.ChunkSize = 40 }), chunkAt(40, 0)}, {sound("f"), sound("f"), hardlink("h", "f")}, {folder("a"), sound(".wh.f")},
	} {
		f.Add([]byte(asJSONL(f, tocOf(e...))))
	}
	f.Fuzz(func(t *testing.T, json []byte) {
		for _, s := range Styles() {
			last := int64(-1)
			g := newGuesser(s, func(g Guessed, _ error) bool {
				if g.Stream <= last || g.Chunks < 0 || len(g.Piece) > MaxGuess {
					t.Fatalf("%d chunks at %d after %d, %d bytes", g.Chunks, g.Stream, last, len(g.Piece))
				}
				last = g.Stream
				return true
			})
			if decodeEntries(bytes.NewReader(json), g.take) == nil && g.end() != nil {
				t.Fatal("more was wanted")
			}
		}
	})
}
