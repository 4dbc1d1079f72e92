package toc

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// countingReader remembers what was asked of it.
type countingReader struct {
	bytes []byte
	reads [][2]int64 // offset, length
}

func (r *countingReader) ReadAt(p []byte, off int64) (int, error) {
	r.reads = append(r.reads, [2]int64{off, int64(len(p))})
	return bytes.NewReader(r.bytes).ReadAt(p, off)
}

func bothFormats(t *testing.T, test func(t *testing.T, f Format)) {
	t.Helper()
	for _, f := range []Format{EStargz, ZstdChunked} {
		t.Run(string(f), func(t *testing.T) { test(t, f) })
	}
}

// entriesJSON is a TOC of n files whose JSON does not compress well.
func entriesJSON(n int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"version": 1, "entries": [`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":"d/%d","type":"reg","size":10,"offset":%d,"digest":"%s"}`, i, i, digest.FromString(fmt.Sprint(i)))
	}
	b.WriteString("]}")
	return b.Bytes()
}

func TestReadAsksOnceOrTwice(t *testing.T) {
	for _, tc := range []struct{ files, payload, reads int }{
		{1, 100, 1},         // the whole blob
		{100, 3 << 20, 1},   // the TOC in the tail
		{40000, 3 << 20, 2}, // the TOC longer than that
		{40000, 10, 2},
	} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			bothFormats(t, func(t *testing.T, f Format) {
				b := packJSON(t, f, make([]byte, tc.payload), entriesJSON(tc.files))
				size := int64(len(b.bytes))
				r := &countingReader{bytes: b.bytes}
				toc, err := Read(r, size, b.toc)
				if err != nil {
					t.Fatal(err)
				}
				if len(toc.Entries) != tc.files || toc.Format != f || toc.PayloadSize != int64(tc.payload) || toc.BlobSize != size || toc.Digest != b.toc {
					t.Errorf("%d entries, %s, payload %d of %d", len(toc.Entries), toc.Format, toc.PayloadSize, toc.BlobSize)
				}
				tail := tailSize(size)
				if len(r.reads) != tc.reads || r.reads[0] != [2]int64{size - tail, tail} {
					t.Fatalf("read %v of %d", r.reads, size)
				}
				if tc.reads == 2 && (r.reads[1][0] < int64(tc.payload) || r.reads[1][0]+r.reads[1][1] != size-tail) {
					t.Errorf("second read %v overlaps the first, %v", r.reads[1], r.reads[0])
				}
			})
		})
	}
}

func TestReadRefusesOtherTOC(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		b := packJSON(t, f, make([]byte, 10), entriesJSON(3))
		want := digest.FromString("another")
		_, err := Read(bytes.NewReader(b.bytes), int64(len(b.bytes)), want)
		var e *DigestError
		if !errors.As(err, &e) || e.Got != b.toc || e.Want != want || !strings.Contains(err.Error(), "want "+want.String()) {
			t.Errorf("error %v", err)
		}
	})
}

// TestDigestComesFirst has TOCs that are both unwanted and broken: only the first is said.
func TestDigestComesFirst(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		for _, json := range []string{"", "{", "[]", `{"entries":[1]}`, `{"entries":[]} trailing`, strings.Repeat("[", 1000)} {
			b := packJSON(t, f, make([]byte, 10), []byte(json))
			_, err := Read(bytes.NewReader(b.bytes), int64(len(b.bytes)), someDigest)
			var e *DigestError
			if !errors.As(err, &e) || e.Got != b.toc {
				t.Errorf("%.40q: error %v", json, err)
			}
		}
	})
}

func TestReadTakesDigestOfCompressedZstd(t *testing.T) {
	layer := makeTar(t, reg("f", "data"))
	metadata := map[string]string{}
	b := pack(t, layer, withZstdMetadata(metadata))
	toc, err := Read(bytes.NewReader(b.bytes), int64(len(b.bytes)), digest.Digest(metadata[ZstdChecksumAnnotation]))
	if err != nil {
		t.Fatal(err)
	}
	if len(toc.Entries) != 2 || toc.Digest.String() != metadata[ZstdChecksumAnnotation] {
		t.Errorf("%d entries of %s", len(toc.Entries), toc.Digest)
	}
}

func TestReadRefusesUselessDigests(t *testing.T) {
	b := pack(t, makeTar(t, reg("f", "data")))
	for want, reason := range map[digest.Digest]string{
		"":          "no digest to check",
		"sha256:12": "invalid checksum digest length",
		"garbage":   "invalid checksum digest format",
		"sha512:" + digest.Digest(strings.Repeat("0", 128)): "sha512",
	} {
		if _, err := Read(bytes.NewReader(b.bytes), int64(len(b.bytes)), want); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: error %v", want, err)
		}
	}
}

func TestReadOfNoLazyBlob(t *testing.T) {
	var plain bytes.Buffer
	z := gzip.NewWriter(&plain)
	mustWrite(t, z, makeTar(t, reg("f", noise(1, 1000))))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string][]byte{
		"empty": {}, "one byte": {1}, "39 bytes": make([]byte, 39), "zeros": make([]byte, 4096), "plain gzip": plain.Bytes(),
	} {
		if _, err := Read(bytes.NewReader(p), int64(len(p)), someDigest); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := Read(bytes.NewReader(nil), -1, someDigest); !errors.Is(err, ErrFormat) {
		t.Errorf("negative size: error %v", err)
	}
}

func TestReadOfTruncatedBlob(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		b := packJSON(t, f, []byte(noise(1, 5000)), entriesJSON(200))
		size := len(b.bytes)
		for cut := 1; cut < 300; cut++ { // the manifest has the right size: the registry does not
			_, err := Read(bytes.NewReader(b.bytes[:size-cut]), int64(size), b.toc)
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%d bytes short: error %v", cut, err)
			}
			// Both have the wrong size: what is left ends in no footer.
			if _, err := Read(bytes.NewReader(b.bytes[:size-cut]), int64(size-cut), b.toc); !errors.Is(err, ErrFormat) {
				t.Fatalf("%d bytes cut off: error %v", cut, err)
			}
			if _, err := Read(bytes.NewReader(b.bytes[cut:]), int64(size-cut), b.toc); err == nil {
				t.Fatalf("%d bytes cut off the front: no error", cut)
			}
		}
	})
}

// TestReadOfFlippedBits corrupts each byte from the TOC on. A TOC that comes out all the same is the right one.
func TestReadOfFlippedBits(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		b := packJSON(t, f, nil, entriesJSON(20))
		right := asJSON(t, b.read(t).Entries)
		for i := range b.bytes {
			p := bytes.Clone(b.bytes)
			p[i] ^= 0x10
			toc, err := Read(bytes.NewReader(p), int64(len(p)), b.toc)
			if err == nil && asJSON(t, toc.Entries) != right {
				t.Errorf("byte %d: another TOC", i)
			}
		}
	})
}

func TestReadOfHostileFooters(t *testing.T) {
	good := packJSON(t, EStargz, make([]byte, 10), entriesJSON(3)).bytes
	body := good[:len(good)-estargz.FooterSize]
	footer := func(offset int64) []byte { return append(bytes.Clone(body), gzipFooter(t, offset)...) }
	negative := footer(0)
	copy(negative[len(negative)-estargz.FooterSize+16:], "-000000000000001")
	short := footer(0) // an extra field that is shorter than it says within: the library's parser slices out of range
	short[len(short)-estargz.FooterSize+10] = 10
	zstdFooter := func(offset, compressed uint64) []byte {
		f := make([]byte, 0, 40)
		for _, n := range []uint64{offset, compressed, 5, 1} {
			for i := range 8 {
				f = append(f, byte(n>>(8*i)))
			}
		}
		return append(bytes.Clone(body), skippable(append(f, "GnUlInUx"...))...)
	}
	tests := map[string]struct {
		blob   []byte
		reason string
	}{
		"offset behind the end":     {footer(int64(len(good))), "is not inside"},
		"offset of the footer":      {footer(int64(len(body))), "is not inside"},
		"offset far behind the end": {footer(1<<62 - 1), "is not inside"},
		"negative offset":           {negative, "is not inside"},
		"short extra field":         {short, ErrFormat.Error()},
		"zstd at 0":                 {zstdFooter(0, 10), "is not inside"},
		"zstd behind the end":       {zstdFooter(1<<40, 10), "is not inside"},
		"zstd at -1":                {zstdFooter(1<<64-1, 10), "is not inside"},
		"zstd too long":             {zstdFooter(8, 1<<62), "is not inside"},
		"zstd of negative length":   {zstdFooter(8, 1<<63), "is not inside"},
		"zstd overflowing":          {zstdFooter(1<<62, 1<<62), "is not inside"},
		"zstd of nothing":           {zstdFooter(8, 0), "is not inside"},
		"zstd of gzip":              {zstdFooter(8, 20), "not a zstd frame"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Read(bytes.NewReader(tc.blob), int64(len(tc.blob)), someDigest)
			if err == nil || !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("error %v, want %q", err, tc.reason)
			}
		})
	}
}

func TestReadRefusesLongCompressedTOC(t *testing.T) {
	size := int64(MaxCompressedTOCSize + 1<<20)
	tail := gzipFooter(t, 5)
	r := readerAtFunc(func(p []byte, off int64) (int, error) {
		if off+int64(len(p)) != size {
			t.Errorf("asked for %d bytes", len(p))
			return 0, io.EOF
		}
		copy(p[len(p)-len(tail):], tail)
		return len(p), nil
	})
	if _, err := Read(r, size, someDigest); err == nil || !strings.Contains(err.Error(), "at most 134217728") {
		t.Error(err)
	}
}

type readerAtFunc func(p []byte, off int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

func TestReadPassesErrorsOn(t *testing.T) {
	b := packJSON(t, EStargz, make([]byte, 3<<20), entriesJSON(40000))
	broken := errors.New("registry is gone")
	for failing := range 2 {
		reads := 0
		_, err := Read(readerAtFunc(func(p []byte, off int64) (int, error) {
			if reads++; reads > failing {
				return 0, broken
			}
			return bytes.NewReader(b.bytes).ReadAt(p, off)
		}), int64(len(b.bytes)), b.toc)
		if !errors.Is(err, broken) || reads != failing+1 {
			t.Errorf("read %d fails: %v after %d reads", failing, err, reads)
		}
	}
}

func TestReadOfBrokenTOC(t *testing.T) {
	long := `"` + strings.Repeat("x", 2<<20) + `"`
	tests := map[string]struct{ json, reason string }{
		"empty":             {"", "EOF"},
		"array":             {"[]", "where { is expected"},
		"number":            {"1", "where { is expected"},
		"entries of object": {`{"entries":{}}`, "where [ is expected"},
		"entries of null":   {`{"entries":null}`, "where [ is expected"},
		"no entries":        {`{"version":1}`, "no entries"},
		"entries twice":     {`{"entries":[],"entries":[]}`, "twice"},
		"cut short":         {`{"entries":[{"name":"f"}`, "EOF"},
		"wrong type":        {`{"entries":[{"name":"f"},{"name":1}]}`, "entry 1: json"},
		"large number":      {`{"entries":[{"size":9223372036854775808}]}`, "entry 0: json"},
		"bad base64":        {`{"entries":[{"xattrs":{"user.x":"!"}}]}`, "entry 0: "},
		"long string":       {`{"entries":[{"name":` + long + `}]}`, "entry 0: value of more than 1048576 bytes"},
		"long field":        {`{"x":` + long + `,"entries":[]}`, "value of more than 1048576 bytes"},
		"long key":          {`{` + long + `:1,"entries":[]}`, "value of more than 1048576 bytes"},
		"deep":              {`{"entries":[{"x":` + strings.Repeat("[", 100000), "depth"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bothFormats(t, func(t *testing.T, f Format) {
				b := packJSON(t, f, make([]byte, 10), []byte(tc.json))
				_, err := Read(bytes.NewReader(b.bytes), int64(len(b.bytes)), b.toc)
				if err == nil || !strings.Contains(err.Error(), tc.reason) {
					t.Errorf("error %v, want %q", err, tc.reason)
				}
			})
		})
	}
}

func TestReadOfOtherTar(t *testing.T) {
	for name, layer := range map[string][]byte{"holds \"f\" instead": makeTar(t, reg("f", "{}")), "tar header: EOF": nil, "tar header: ": make([]byte, 100)} {
		r := &Raw{Format: EStargz, want: someDigest, compressed: compress(t, EStargz, layer)}
		if _, err := r.TOC(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want %q", err, name)
		}
	}
}

func TestReadPassesOverUnknownFields(t *testing.T) {
	b := packJSON(t, ZstdChunked, make([]byte, 10), []byte(`{"tarSplitDigest":"x","y":{"entries":[1,2]},"entries":[{"name":"f","chunkType":"zeros"},null],"z":[]} `))
	toc := b.read(t)
	if len(toc.Entries) != 2 || toc.Entries[0].Name != "f" || toc.Entries[1].Name != "" {
		t.Errorf("%+v", toc.Entries)
	}
}

func TestReadRefusesBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("decompresses gigabytes")
	}
	repeat := func(head, again, tail string, n int) func(w io.Writer) {
		return func(w io.Writer) {
			block := strings.Repeat(again, 4096)
			fmt.Fprint(w, head)
			for i := 0; i < n; i += 4096 {
				fmt.Fprint(w, block)
			}
			fmt.Fprint(w, tail)
		}
	}
	tests := map[string]struct {
		write  func(w io.Writer)
		reason string
	}{
		"one string":       {repeat(`{"entries":[{"name":"`, "x", `"}]}`, MaxTOCSize+4096), "more than 536870912 bytes"},
		"spaces":           {repeat(`{"entries":[`, " ", `]}`, 64<<20), "value of more than 1048576 bytes"},
		"a million and so": {repeat(`{"entries":[`, "{},", `{}]}`, MaxEntries), "more than 1048576 entries"},
		"small entries":    {repeat(`{"entries":[`, "{},", `{}]}`, 100<<20), "more than 1048576 entries"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			hash := digest.SHA256.Digester()
			var compressed bytes.Buffer
			z, err := zstd.NewWriter(&compressed, zstd.WithEncoderLevel(zstd.SpeedFastest))
			if err != nil {
				t.Fatal(err)
			}
			tc.write(io.MultiWriter(z, hash.Hash()))
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			r := &Raw{Format: ZstdChunked, want: hash.Digest(), compressed: compressed.Bytes()}
			if _, err := r.TOC(); err == nil || !strings.Contains(err.Error(), tc.reason) {
				t.Errorf("error %v, want %q", err, tc.reason)
			}
		})
	}
}

// TestReadAgreesWithTheLibrary compares with estargz's own parser.
func TestReadAgreesWithTheLibrary(t *testing.T) {
	layer := makeTar(t, goSources(t, "src/net/http")...)
	for _, p := range packings {
		t.Run(p.name, func(t *testing.T) {
			b := pack(t, layer, p.options()...)
			i := slices.IndexFunc(footerKinds(), func(k footerKind) bool {
				n := int(k.decoder.FooterSize())
				_, _, _, err := k.decoder.ParseFooter(b.bytes[len(b.bytes)-n:])
				return k.format == p.format && err == nil
			})
			k := footerKinds()[i]
			n := k.decoder.FooterSize()
			_, offset, size, err := k.decoder.ParseFooter(b.bytes[int64(len(b.bytes))-n:])
			if err != nil {
				t.Fatal(err)
			}
			if size == 0 {
				size = int64(len(b.bytes)) - n - offset
			}
			want, d, err := k.decoder.ParseTOC(bytes.NewReader(b.bytes[offset:][:size]))
			if err != nil || d != b.toc {
				t.Fatal(d, err)
			}
			if asJSON(t, b.read(t).Entries) != asJSON(t, want.Entries) {
				t.Error("entries differ")
			}
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	p, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}
