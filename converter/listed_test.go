package converter

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/converter/pack"
	"github.com/sluice-snapshotter/sluice/converter/prefetch"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// TestListedChunks: whatever the ranges and the size of chunks, listed chunks are the pages of the ranges, with gaps of less than 16 KiB, and
// nothing else.
func TestListedChunks(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(3, seed))
		var headers []*tar.Header
		for i := range 1 + rng.IntN(4) {
			size := 1 + rng.Int64N(400000)
			headers = append(headers, &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint("f", i), Size: size},
				&tar.Header{Typeflag: tar.TypeLink, Name: fmt.Sprint("l", i), Linkname: fmt.Sprint("./f", i)})
		}
		lines, want := randomRanges(rng, headers)
		listedMustBe(t, headers, lines, []int64{1000, 4096, 10000, 65536, 1 << 20}[rng.IntN(5)], want)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// randomRanges makes a list, and which bytes of which files are to be listed, by looking at each page.
func randomRanges(rng *rand.Rand, headers []*tar.Header) (lines string, want map[string][]bool) {
	want = make(map[string][]bool)
	sizes := make(map[string]int64)
	for _, h := range headers {
		name := h.Name
		if h.Typeflag == tar.TypeLink { // names the same file
			name = strings.TrimPrefix(h.Linkname, "./")
		} else {
			sizes[name] = h.Size
		}
		if rng.IntN(3) == 0 {
			continue
		}
		if want[name] == nil {
			want[name] = make([]bool, (sizes[name]+4095)/4096)
		}
		if rng.IntN(6) == 0 {
			lines += h.Name + "\n"
			for i := range want[name] {
				want[name][i] = true
			}
			continue
		}
		var ranges []string
		for range 1 + rng.IntN(5) {
			first := rng.Int64N(sizes[name] + 5000)
			last := first + rng.Int64N(20000)
			ranges = append(ranges, fmt.Sprintf("%d-%d", first, last))
			for at := first; at <= last && at < sizes[name]; at++ {
				want[name][at/4096] = true
			}
		}
		lines += h.Name + "\t" + strings.Join(ranges, ",") + "\n"
	}
	for _, pages := range want {
		last := -1
		for i, on := range pages {
			if on && last >= 0 && i-last-1 < 4 {
				for j := range pages[last:i] {
					pages[last+j] = true
				}
			}
			if on {
				last = i
			}
		}
	}
	return lines, want
}

func listedMustBe(t *testing.T, headers []*tar.Header, lines string, chunk int64, want map[string][]bool) {
	t.Helper()
	var raw, spooled, blob bytes.Buffer
	tw := tar.NewWriter(&raw)
	for _, h := range headers {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write(make([]byte, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	tr, err := pack.Normalise(&spooled, &raw)
	if err != nil {
		t.Fatal(err)
	}
	list, err := prefetch.Parse(strings.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	var l layer
	l.pick(list, tr)
	packed, err := tr.Pack(t.Context(), bytes.NewReader(spooled.Bytes()), &blob, pack.Options{
		First: l.first, Edges: l.edges(), ChunkSize: chunk, Compressor: newGzipCompressor(1),
	})
	if err != nil {
		t.Fatal(err)
	}
	read, err := toc.Read(bytes.NewReader(blob.Bytes()), int64(blob.Len()), packed.TOCDigest)
	if err != nil {
		t.Fatal(err)
	}
	layout, err := read.Layout()
	if err != nil {
		t.Fatal(err)
	}
	listed := l.listed(layout)
	for _, h := range headers {
		if h.Typeflag != tar.TypeReg {
			continue
		}
		begin, end, offset := layout.Chunked(h.Name)
		got := make([]bool, h.Size)
		for i := begin; i < end; i++ {
			for at := range layout.Chunks[i].Size {
				got[layout.Chunks[i].DataOffset-offset+at] = i < len(listed) && listed[i]
			}
		}
		expect := make([]bool, h.Size)
		for at := range expect {
			expect[at] = want[h.Name] != nil && want[h.Name][at/4096]
		}
		if !slices.Equal(got, expect) {
			t.Errorf("chunks of %d, %s of %d bytes: listed are other bytes\n%s", chunk, h.Name, h.Size, lines)
		}
	}
}
