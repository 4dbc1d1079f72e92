package toc

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// space is an address space in memory that may only be written in order.
type space struct{ bytes.Buffer }

func (s *space) WriteAt(p []byte, off int64) (int, error) {
	if off < int64(s.Len()) {
		return 0, fmt.Errorf("written at %d after %d", off, s.Len())
	}
	s.Write(make([]byte, off-int64(s.Len())))
	return s.Write(p)
}

func index(t *testing.T, layer []byte) *Layout {
	t.Helper()
	l, err := Index(bytes.NewReader(layer), new(space), nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestIndexIsWhatContainerdUnpacks has what a TOC cannot have or what is refused there.
func TestIndexIsWhatContainerdUnpacks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("unpacking whiteouts and owners takes root")
	}
	precise := func(m member) member {
		return m.with(func(h *tar.Header) { h.ModTime, h.Format = when.Add(123456789), tar.FormatPAX })
	}
	tests := map[string][]member{
		"fractions of seconds": {precise(reg("f", "x")), precise(dir("d", 0o755))},
		"absolute names":       {dir("/", 0o700), dir("/a/", 0o711), reg("/a/b", "x"), link(tar.TypeLink, "/c", "/a/b")},
		"the format's files":   {reg(".prefetch.landmark", "\x0f"), reg(".no.prefetch.landmark", "\x0f"), reg("stargz.index.json", "{}")},
		"file for directory":   {dir("d", 0o755), reg("d/f", "x"), reg("d", "now a file")},
		"directory for file":   {reg("d", "x"), dir("d", 0o700), reg("d/f", "y")},
		"and back":             {dir("d", 0o755), reg("d/f", "x"), link(tar.TypeSymlink, "d", "e"), dir("d", 0o711), reg("d/g", "y")},
		"link that outlives":   {reg("a", "one"), link(tar.TypeLink, "b", "a"), reg("a", "two")},
		"file for link":        {reg("a", "one"), link(tar.TypeSymlink, "l", "a"), reg("l", "two")},
		"global header": {
			{header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}},
			reg("f", "x"),
		},
	}
	for name, members := range tests {
		t.Run(name, func(t *testing.T) {
			layer := makeTar(t, members...)
			compareTrees(t, flatten(index(t, layer).Root), unpack(t, layer))
		})
	}
}

func TestIndexPlacesFiles(t *testing.T) {
	layer := makeTar(t, reg("a", noise(1, 5000)), reg("empty", ""), reg("b", noise(2, 300_000)), reg("a", "again"), reg(".wh.x", "passed over"), reg("c", "x"))
	var data space
	l, err := Index(bytes.NewReader(layer), &data, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "again", "b": noise(2, 300_000), "c": "x", "empty": ""} {
		n := l.Root.Children[name]
		if got := data.Bytes()[n.Offset:][:n.Size]; string(got) != want || n.Offset%blockSize != 0 {
			t.Errorf("%s: %d bytes at %d are wrong", name, n.Size, n.Offset)
		}
	}
	if want := int64(2+74+1+1) * blockSize; l.DataSize != want || l.Files != 5 {
		t.Errorf("%d bytes, %d files; want %d", l.DataSize, l.Files, want)
	}
	if err := l.WriteMetadata(io.Discard); err != nil {
		t.Error(err)
	}
}

// TestIndexSparse reads a file whose holes are not in the tar.
func TestIndexSparse(t *testing.T) {
	layer := sparseTar(t, "f", 10<<20, 4<<20, "in the middle")
	var data space
	l, err := Index(bytes.NewReader(layer), &data, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := l.Root.Children["f"]
	want := make([]byte, 10<<20)
	copy(want[4<<20:], "in the middle")
	if n == nil || n.Size != 10<<20 || !bytes.Equal(data.Bytes(), want) {
		t.Errorf("node %+v, %d bytes of data", n, data.Len())
	}
}

// sparseTar has one file with one piece of data, as GNU tar writes it in PAX format, version 1.0. (package tar only reads those.)
func sparseTar(t *testing.T, name string, size, at int64, data string) []byte {
	t.Helper()
	table := fmt.Sprintf("1\n%d\n%d\n", at, len(data))
	body := table + strings.Repeat("\x00", 512-len(table)) + data
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=" + name, fmt.Sprint("GNU.sparse.realsize=", size)} {
		n := len(r) + 3 // the space, the newline and a digit
		for len(fmt.Sprint(n))+len(r)+2 != n {
			n++
		}
		records += fmt.Sprintf("%d %s\n", n, r)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range []member{reg("GNUSparseFile.0/pax", records), reg("GNUSparseFile.0/"+name, body)} {
		m.header.Format = tar.FormatUSTAR
		if err := errors.Join(w.WriteHeader(&m.header), second(w.Write([]byte(m.body)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := b.Bytes()
	out[156] = 'x'
	sum := 8 * int(' ')
	for i, c := range out[:512] {
		if i < 148 || i >= 156 {
			sum += int(c)
		}
	}
	copy(out[148:], fmt.Sprintf("%06o\x00 ", sum))
	return out
}

func second(_ int, err error) error { return err }

func TestIndexImplied(t *testing.T) {
	l := index(t, makeTar(t, reg("a/b/c", "x"), dir("d", 0o711), reg("d/e/f", "x"), dir("a", 0o700), reg("g/h", ""), reg("g", "a file now"), reg("./i/j", "")))
	if want := []string{"a/b", "d/e", "i"}; !slices.Equal(l.Implied, want) {
		t.Errorf("implied are %q, want %q", l.Implied, want)
	}
}

func TestIndexRefuses(t *testing.T) {
	long := strings.Repeat("n", 256)
	tests := map[string]struct {
		members []member
		want    string
	}{
		"parent":           {[]member{reg("a/../../b", "")}, ".."},
		"long name":        {[]member{reg(long, "")}, "256 bytes"},
		"beneath a link":   {[]member{link(tar.TypeSymlink, "l", "d"), reg("l/f", "")}, "beneath"},
		"link to nowhere":  {[]member{link(tar.TypeLink, "l", "gone")}, "gone"},
		"link to a dir":    {[]member{dir("d", 0o755), link(tar.TypeLink, "l", "d")}, "directory"},
		"unknown type":     {[]member{link('7', "contiguous", "")}, "unknown type"},
		"device number":    {[]member{device(tar.TypeChar, "c", 1<<20, 0)}, "device"},
		"unreachable size": {[]member{reg("f", "").with(func(h *tar.Header) { h.Size = MaxIndexSize + 1 })}, "bytes of files"},
		"too many implied": {manyImplied(), "4096 other directories"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, m := range test.members {
				if err := w.WriteHeader(&m.header); err != nil {
					t.Fatal(err)
				}
			}
			_ = w.Flush() // a file may be shorter than it says
			_, err := Index(&b, new(space), nil)
			var entry *EntryError
			if !errors.As(err, &entry) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func manyImplied() (members []member) {
	for i := range 4097 {
		members = append(members, reg(fmt.Sprint(i, "/f"), ""))
	}
	return members
}

func TestIndexBrokenTar(t *testing.T) {
	whole := makeTar(t, reg("f", noise(1, 10_000)), reg("g", "x"))
	for name, layer := range map[string][]byte{
		"cut in a file": whole[:5000], "cut in a header": whole[:100], "no tar": bytes.Repeat([]byte("x"), 2048),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Index(bytes.NewReader(layer), new(space), nil); !errors.Is(err, ErrTar) {
				t.Errorf("got %v", err)
			}
		})
	}
	cause := errors.New("disk full")
	if _, err := Index(bytes.NewReader(whole), failing{cause}, nil); !errors.Is(err, cause) || errors.Is(err, ErrTar) {
		t.Errorf("full disk: %v", err)
	}
}

type failing struct{ error }

func (f failing) WriteAt([]byte, int64) (int, error) { return 0, f.error }

// TestIndexMemory: what is asked for is what the tree takes, and the metadata image that is made of it.
func TestIndexMemory(t *testing.T) {
	const files = 30_000
	var members []member
	for i := range files {
		members = append(members, reg(fmt.Sprintf("usr/lib/python3/dist-packages/package%d/module%d.py", i/20, i), ""))
	}
	layer := makeTar(t, members...)
	var asked int64
	before := heapInUse()
	l, err := Index(bytes.NewReader(layer), new(space), func(n int64) error { asked += n; return nil })
	if err != nil {
		t.Fatal(err)
	}
	tree := heapInUse() - before
	var during sampler
	if err := l.WriteMetadata(&during); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes a file were asked for; the tree has %d, with its image %d", asked/files, tree/files, (during.most-before)/files)
	if taken := max(tree, during.most-before); taken > asked+memoryStep || taken < asked/4 {
		t.Errorf("%d MiB were asked for, %d taken", asked>>20, taken>>20)
	}
	stop := errors.New("stop")
	if _, err := Index(bytes.NewReader(layer), new(space), func(int64) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("memory is refused: %v", err)
	}
	runtime.KeepAlive(l)
	runtime.KeepAlive(layer)
	runtime.KeepAlive(members)
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// sampler is the most memory that was in use when it was written to.
type sampler struct{ most, n int64 }

func (s *sampler) Write(p []byte) (int, error) {
	if s.n += int64(len(p)); s.n > 1<<20 || s.most == 0 {
		s.most, s.n = max(s.most, heapInUse()), 0
	}
	return len(p), nil
}

// FuzzIndex checks that whatever is taken can be written as a metadata image, and is what data was written for.
func FuzzIndex(f *testing.F) {
	var many []member
	for i := range 20 {
		many = append(many, reg(fmt.Sprintf("d%d/f", i%3), noise(uint64(i), 100*i)))
	}
	f.Add(makeTar(f, many...))
	f.Add(makeTar(f, dir("d", 0o755), reg("d/.wh..wh..opq", ""), reg(".wh.x", ""), link(tar.TypeLink, "l", "x"), reg("x", "1").xattr("user.a", "b")))
	f.Fuzz(func(t *testing.T, layer []byte) {
		var data counter
		began := time.Now()
		l, err := Index(bytes.NewReader(layer), &data, nil)
		if took := time.Since(began); took > 10*time.Second {
			t.Skipf("%d bytes of sparse files took %s", data.end, took)
		}
		if err != nil {
			return
		}
		if err := l.WriteMetadata(io.Discard); err != nil {
			t.Fatal(err)
		}
		if data.end > l.DataSize {
			t.Errorf("data up to %d in an address space of %d", data.end, l.DataSize)
		}
		for name := range flatten(l.Root) {
			if strings.HasPrefix(name, "/") {
				t.Errorf("name %q", name)
			}
		}
	})
}

// counter is how far was written.
type counter struct{ end int64 }

func (c *counter) WriteAt(p []byte, off int64) (int, error) {
	if off < c.end {
		return 0, errors.New("written backwards")
	}
	c.end = off + int64(len(p))
	return len(p), nil
}
