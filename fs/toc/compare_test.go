package toc

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/externaltoc"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// putTogether is the tar of a blob as it is put together of chunks and the rest.
type putTogether struct {
	tar     []byte
	origins []int64 // of each byte, -1 if it is not of a chunk
	pos     int
	origin  int64
	most    int // bytes in a read
}

func (p *putTogether) Read(b []byte) (int, error) {
	if p.pos == len(p.tar) {
		return 0, io.EOF
	}
	b = b[:min(len(b), p.most)]
	n := 0
	for n < len(b) && p.pos+n < len(p.tar) && n < p.most {
		at := p.origins[p.pos+n]
		if n > 0 && (at < 0) != (p.origin < 0) || n > 0 && at >= 0 && at != p.origin+int64(n) {
			break
		}
		if n == 0 {
			p.origin = at
		}
		n++
	}
	copy(b, p.tar[p.pos:p.pos+n])
	p.pos += n
	return n, nil
}

func (p *putTogether) Origin() int64 { return p.origin }

func unpackAll(t testing.TB, f Format, p []byte) []byte {
	t.Helper()
	if len(p) == 0 {
		return nil
	}
	r, err := f.NewReaderAll(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// together puts the tar of a blob together, as l says where its chunks are, and the address space.
func (b blob) together(t testing.TB, l *Layout) (*putTogether, []byte) {
	t.Helper()
	p := &putTogether{tar: unpackAll(t, b.format, b.bytes), most: 1 << 30}
	p.origins = make([]int64, len(p.tar))
	for i := range p.origins {
		p.origins[i] = -1
	}
	data := make([]byte, l.DataSize)
	starts := map[int64]int64{}
	for _, c := range l.Chunks {
		start, ok := starts[c.BlobOffset]
		if !ok {
			start = int64(len(unpackAll(t, b.format, b.bytes[:c.BlobOffset])))
			starts[c.BlobOffset] = start
		}
		at := start + c.InnerOffset
		copy(data[c.DataOffset:], p.tar[at:at+c.Size])
		if p.origins[at] < 0 { // what two chunks have is put there once
			for i := range c.Size {
				p.origins[at+i] = c.DataOffset + i
			}
		}
	}
	return p, data
}

// shown makes a metadata image.
func shown(t testing.TB, l *Layout, data []byte) Shown {
	t.Helper()
	name := filepath.Join(t.TempDir(), "meta")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.WriteMetadata(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	im, err := metadata.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = im.Close() })
	return Shown{Image: im, Data: bytes.NewReader(data)}
}

// compareBoth compares a blob with what l shows, in both ways.
func compareBoth(t testing.TB, b blob, l *Layout) (quick, last error) {
	t.Helper()
	p, data := b.together(t, l)
	s := shown(t, l, data)
	quick = s.Compare(p)
	p.pos = 0
	last = s.CompareTree(p)
	p.pos, p.most = 0, 100
	if err := s.CompareTree(p); fmt.Sprint(err) != fmt.Sprint(last) {
		t.Errorf("in small pieces: %v, at once: %v", err, last)
	}
	if quick == nil && last != nil {
		t.Errorf("passed at first sight: %v", last)
	}
	for _, err := range []error{quick, last} {
		if d := (*DifferenceError)(nil); err != nil && !errors.As(err, &d) {
			t.Error(err)
		}
	}
	return quick, last
}

// TestCompareTakesWhatIsRight: nothing that a writer of TOCs does is a difference.
func TestCompareTakesWhatIsRight(t *testing.T) {
	for name, members := range unpackable(t) {
		t.Run(name, func(t *testing.T) {
			layer := makeTar(t, members...)
			for way, b := range map[string]blob{
				"as it is": packAsIs(t, layer),
				"built":    pack(t, layer, estargz.WithChunkSize(4096)),
				"shared":   pack(t, layer, estargz.WithMinChunkSize(100_000)),
				"zstd":     zstdOf(t, layer),
			} {
				if _, err := compareBoth(t, b, b.layout(t)); err != nil {
					t.Errorf("%s: %v", way, err)
				}
			}
			b, l := lossless(t, layer)
			if _, err := compareBoth(t, b, l); err != nil {
				t.Errorf("lossless: %v", err)
			}
		})
	}
}

func zstdOf(t *testing.T, layer []byte) blob {
	b := pack(t, layer, withZstd(), estargz.WithChunkSize(4096))
	b.format = ZstdChunked
	return b
}

// TestCompareReplaced: a file that another one has replaced lives on by its hard link.
func TestCompareReplaced(t *testing.T) {
	b := packAsIs(t, makeTar(t, reg("a", noise(1, 9000)), link(tar.TypeLink, "b", "a"), reg("a", noise(2, 9000)), reg("c", "one"), reg("c", "two")))
	if _, err := compareBoth(t, b, b.layout(t)); err != nil {
		t.Error(err)
	}
}

// lossless makes a layer with an external TOC, whose tar is as it was, and the layout of that.
func lossless(t *testing.T, layer []byte) (blob, *Layout) {
	t.Helper()
	var packed, table bytes.Buffer
	c := externaltoc.NewGzipCompressorWithLevel(1)
	w := estargz.NewWriterWithCompressor(&packed, c)
	if err := w.AppendTarLossLess(bytes.NewReader(layer)); err != nil {
		t.Fatal(err)
	}
	d, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTOCTo(&table); err != nil {
		t.Fatal(err)
	}
	b := blob{bytes: packed.Bytes(), toc: d, format: EStargz}
	if got := unpackAll(t, EStargz, b.bytes); !bytes.Equal(got, layer) {
		t.Fatal("it is another tar")
	}
	raw, err := Fetch(bytes.NewReader(b.bytes), Wanted{BlobSize: int64(packed.Len()), Digest: d, External: func() ([]byte, error) { return table.Bytes(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := raw.Layout()
	if err != nil {
		t.Fatal(err)
	}
	return b, l
}

// TestCompareAtFirstSight: what real layers have is right at first sight, and needs no tree.
func TestCompareAtFirstSight(t *testing.T) {
	precise := func(m member) member {
		return m.with(func(h *tar.Header) { h.ModTime, h.Format = when.Add(623456789), tar.FormatPAX })
	}
	for name, members := range map[string][]member{
		"real files": append([]member{dir("./", 0o755)}, goSources(t, "src/strings")...),
		"implied":    {reg("a/b/c/d", "x"), reg("a/.wh.b2", ""), reg("e/.wh..wh..opq", "")},
		"hard links": {reg("a", noise(1, 9000)), link(tar.TypeLink, "b", "a").with(func(h *tar.Header) { h.Mode = 0o644 }), reg("d/c", ""), link(tar.TypeLink, "d/e", "/d/c")},
		"fractions":  {precise(reg("f", "x")), precise(dir("d", 0o700))},
		"no UTF-8":   {dir("caf\xe9", 0o755), reg("caf\xe9/\xff\xfe", "x"), link(tar.TypeSymlink, "l", "caf\xe9")},
		"twice":      {dir("d", 0o755), reg("d/f", "x"), dir("d/", 0o755)},
		"zeros":      {reg("zeros", strings.Repeat("\x00", 100_000)), reg("more", strings.Repeat("\x00", 100_000))},
		"AUFS":       {dir(".wh..wh.plnk", 0o700), reg(".wh..wh.plnk/1", "x"), reg("f", "y")},
	} {
		t.Run(name, func(t *testing.T) {
			b := packAsIs(t, makeTar(t, members...))
			if quick, err := compareBoth(t, b, b.layout(t)); quick != nil || err != nil {
				t.Errorf("%v; %v", quick, err)
			}
		})
	}
}

// TestCompareTimes: which times a TOC may have for one of a tar.
func TestCompareTimes(t *testing.T) {
	at := func(sec, nsec int64) time.Time { return time.Unix(sec, nsec) }
	for _, test := range []struct {
		tar, shown time.Time
		same       bool
	}{
		{at(100, 0), at(100, 0), true},
		{at(100, 700e6), at(100, 700e6), true}, // podman
		{at(100, 700e6), at(101, 0), true},     // estargz
		{at(100, 200e6), at(100, 0), true},
		{at(100, 700e6), at(100, 0), true},
		{at(100, 200e6), at(101, 0), false},
		{at(100, 0), at(101, 0), false},
		{at(100, 0), at(99, 0), false},
		{at(100, 700e6), at(100, 600e6), false},
		{at(0, 900e6), at(0, 0), true}, // estargz leaves it out
		{at(9223372036, 700e6), at(0, 0), true},
		{at(9223372036, 200e6), at(0, 0), false},
	} {
		if got := sameTime(test.tar, test.shown); got != test.same {
			t.Errorf("%s in the tar, %s shown: %t", test.tar.UTC(), test.shown.UTC(), got)
		}
	}
}

// TestCompareOtherTar: what is mounted is of one tar, and compared with another, of which each entry by itself seems to fit.
func TestCompareOtherTar(t *testing.T) {
	capable := func(m member) member { return m.xattr("security.capability", "some") }
	for name, tars := range map[string]struct{ shown, tar []member }{
		"links in a cycle":             {[]member{reg("a", ""), link(tar.TypeLink, "b", "a")}, []member{link(tar.TypeLink, "a", "b"), link(tar.TypeLink, "b", "a")}},
		"a link that takes an xattr":   {[]member{capable(reg("a", "")), capable(link(tar.TypeLink, "b", "a"))}, []member{capable(reg("a", "")), link(tar.TypeLink, "b", "a")}},
		"a link that gives one":        {[]member{reg("a", ""), link(tar.TypeLink, "b", "a")}, []member{reg("a", ""), capable(link(tar.TypeLink, "b", "a"))}},
		"a copy in place of a link":    {[]member{reg("a", "x"), link(tar.TypeLink, "b", "a")}, []member{reg("a", "x"), reg("b", "x")}},
		"a link in place of a copy":    {[]member{reg("a", "x"), reg("b", "x")}, []member{reg("a", "x"), link(tar.TypeLink, "b", "a")}},
		"another that is linked to":    {[]member{reg("a", "x"), reg("c", "x"), link(tar.TypeLink, "b", "a")}, []member{reg("a", "x"), reg("c", "x"), link(tar.TypeLink, "b", "c")}},
		"the last of two":              {[]member{reg("a", "one")}, []member{reg("a", "one"), reg("a", "two")}},
		"a whiteout and then the name": {[]member{reg(".wh.a", "")}, []member{reg(".wh.a", ""), reg("a", "")}},
	} {
		t.Run(name, func(t *testing.T) {
			b := packAsIs(t, makeTar(t, tars.shown...))
			l := b.layout(t)
			_, data := b.together(t, l)
			s, other := shown(t, l, data), makeTar(t, tars.tar...)
			p := &putTogether{tar: other, origins: make([]int64, len(other)), most: 1 << 30}
			for i := range p.origins {
				p.origins[i] = -1
			}
			var d *DifferenceError
			if err := s.Compare(p); !errors.As(err, &d) {
				t.Errorf("at first sight: %v", err)
			}
			p.pos = 0
			if err := s.CompareTree(p); !errors.As(err, &d) {
				t.Error(err)
			}
		})
	}
}

// fixedOrigin is a tar that says the same of all its bytes.
type fixedOrigin struct{ io.Reader }

func (fixedOrigin) Origin() int64 { return 0 }

// TestCompareSparse: what a tar has left out of a sparse file comes from nowhere, whatever came before.
func TestCompareSparse(t *testing.T) {
	layer := sparseTar(t, "f", 1<<20, 400<<10, "in the middle")
	var data space
	l, err := Index(bytes.NewReader(layer), &data, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := shown(t, l, data.Bytes())
	for _, compare := range []func(Tar) error{s.Compare, s.CompareTree} {
		if err := compare(fixedOrigin{bytes.NewReader(layer)}); err != nil {
			t.Error(err)
		}
	}
	data.Bytes()[1000] = 1
	for _, compare := range []func(Tar) error{s.Compare, s.CompareTree} {
		var d *DifferenceError
		if err := compare(fixedOrigin{bytes.NewReader(layer)}); !errors.As(err, &d) {
			t.Error(err)
		}
	}
}

// TestCompareRightMappings: where a TOC has the bytes of a file does not matter, if they are the right ones.
func TestCompareRightMappings(t *testing.T) {
	b := packAsIs(t, makeTar(t, honest()...))
	for name, change := range map[string]func(e tocEntries){
		"a hole": func(entries tocEntries) {
			for _, e := range entries {
				if e.Name == "etc/zeros" {
					e.ChunkDigest = hole
				}
			}
		},
		"another file's": func(entries tocEntries) {
			var from tocEntries
			for _, e := range entries {
				if e.Name == "etc/zeros" {
					from = append(from, e)
				}
			}
			for _, e := range entries {
				if e.Name == "etc/zero2" {
					e.Offset, e.InnerOffset, from = from[0].Offset, from[0].InnerOffset, from[1:]
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			toc := b.read(t)
			change(toc.Entries)
			l, err := toc.Layout()
			if err != nil {
				t.Fatal(err)
			}
			if quick, last := compareBoth(t, b, l); quick != nil || last != nil {
				t.Errorf("%v; %v", quick, last)
			}
		})
	}
}

// TestCompareBrokenTar: a blob that is no tar is none that its TOC describes.
func TestCompareBrokenTar(t *testing.T) {
	b := packAsIs(t, makeTar(t, honest()...))
	for name, change := range map[string]func(p *putTogether){
		"garbage":   func(p *putTogether) { copy(p.tar, "garbage"); p.origins[0] = -1 },
		"cut short": func(p *putTogether) { p.tar = p.tar[:4000] },
		"nothing":   func(p *putTogether) { p.tar = nil },
	} {
		t.Run(name, func(t *testing.T) {
			l := b.layout(t)
			p, data := b.together(t, l)
			change(p)
			s := shown(t, l, data)
			var d *DifferenceError
			if err := s.Compare(p); !errors.As(err, &d) {
				t.Error(err)
			}
			p.pos = 0
			if err := s.CompareTree(p); !errors.As(err, &d) {
				t.Error(err)
			}
		})
	}
}

// failingTar fails in the middle.
type failingTar struct {
	*putTogether
	left int
	err  error
}

func (f *failingTar) Read(p []byte) (int, error) {
	n, err := f.putTogether.Read(p[:min(len(p), f.left)])
	if f.left -= n; f.left == 0 && err == nil {
		err = f.err
	}
	return n, err
}

// TestComparePassesErrorsOn: that bytes do not come is no difference.
func TestComparePassesErrorsOn(t *testing.T) {
	b := packAsIs(t, makeTar(t, honest()...))
	l := b.layout(t)
	p, data := b.together(t, l)
	s := shown(t, l, data)
	down := errors.New("down")
	for left := 1; left < len(p.tar); left += 499 {
		for _, compare := range []func(Tar) error{s.Compare, s.CompareTree} {
			p.pos = 0
			if err := compare(&failingTar{p, left, down}); err != nil && !errors.Is(err, down) {
				t.Fatalf("after %d bytes: %v", left, err)
			}
		}
	}
	p.pos = 0
	if err := s.Compare(&failingTar{p, 1000, down}); !errors.Is(err, down) {
		t.Error(err)
	}
	s.Data = bytes.NewReader(nil)
	for i := range p.origins {
		p.origins[i] = -1
	}
	p.pos = 0
	var d *DifferenceError
	if err := s.Compare(p); err == nil || errors.As(err, &d) {
		t.Error(err)
	}
}

// TestCompareOfChangedTOCs changes entries at random: what passes at first sight passes the last, and what passes is the tree of the tar.
func TestCompareOfChangedTOCs(t *testing.T) {
	b := packAsIs(t, makeTar(t, honest()...))
	want := flatten(b.layout(t).Root)
	names := []string{"etc", "etc/one", "etc/two", "etc/link", "etc/evil", "opq", "none", "etc/.wh.x", "etc/.wh..wh..opq", "a/b", "a", "./"}
	types := []string{"reg", "dir", "hardlink", "symlink", "char", "fifo"}
	passed := 0
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 7))
		toc := b.read(t)
		for range 1 + r.IntN(2) {
			i := r.IntN(len(toc.Entries))
			e := *toc.Entries[i]
			switch r.IntN(9) {
			case 0:
				toc.Entries = slices.Delete(toc.Entries, i, i+1)
				continue
			case 1:
				toc.Entries = slices.Insert(toc.Entries, r.IntN(len(toc.Entries)), &e)
				continue
			case 2:
				e.Name = names[r.IntN(len(names))]
			case 3:
				e.Type = types[r.IntN(len(types))]
			case 4:
				e.LinkName = names[r.IntN(len(names))]
			case 5:
				e.Mode = 0o755
			case 6:
				e.Xattrs = map[string][]byte{"user.x": []byte("y")}
			case 7:
				j := r.IntN(len(toc.Entries))
				toc.Entries[i], toc.Entries[j] = toc.Entries[j], toc.Entries[i]
				continue
			case 8:
				e.UID = 0
			}
			toc.Entries[i] = &e
		}
		l, err := toc.Layout()
		if err != nil {
			continue
		}
		_, last := compareBoth(t, b, l)
		got := flatten(l.Root)
		if same := fmt.Sprint(got) == fmt.Sprint(want); same != (last == nil) {
			t.Errorf("seed %d: the trees are the same: %t, and %v", seed, same, last)
		}
		if last == nil {
			passed++
		}
	}
	if passed == 0 || passed == 600 {
		t.Errorf("%d of 600 passed", passed)
	}
}
