package images

import (
	"archive/tar"
	"io"
	"os"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
)

func TestPosix(t *testing.T) {
	im, err := Posix(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	links, capable := 0, 0
	for _, h := range check(t, im) {
		if h.Typeflag == tar.TypeLink && h.Linkname == "posix/links/one" {
			links++
		}
		if h.PAXRecords["SCHILY.xattr.security.capability"] == capNetRaw {
			capable++
		}
	}
	if links != 2 || capable != 1 {
		t.Errorf("%d hard links, want 2; %d files with a capability, want 1", links, capable)
	}
}

func TestExtreme(t *testing.T) {
	im, err := Extreme(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	values, entries := ExtremeXattrs(), 0
	for _, h := range check(t, im) {
		path := "/" + h.Name
		if h.Typeflag == tar.TypeDir {
			path = path[:len(path)-1]
		}
		if want, ok := values[path]; ok && h.PAXRecords["SCHILY.xattr."+ExtremeXattr] != string(want) {
			t.Errorf("%s has another value, want %d bytes", path, len(want))
		}
		if h.Typeflag == tar.TypeReg {
			entries++
		}
	}
	if entries < Crowd {
		t.Errorf("%d files, want %d", entries, Crowd)
	}
}

// TestHuge reads the layer that is written by hand with the library whose format it is.
func TestHuge(t *testing.T) {
	im, err := Huge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l := im.Manifest.Layers[len(im.Manifest.Layers)-1]
	f, err := os.Open(im.blob(l.Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := estargz.Open(io.NewSectionReader(f, 0, l.Size))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.TOCDigest().String(), l.Annotations[estargz.TOCJSONDigestAnnotation]; got != want {
		t.Errorf("the TOC is %s, want %s", got, want)
	}
	file, err := r.OpenFile(HugeFile[1:])
	if err != nil {
		t.Fatal(err)
	}
	if file.Size() != HugeBytes {
		t.Errorf("%d bytes, want %d", file.Size(), HugeBytes)
	}
	for off, want := range HugeMarks() {
		p := make([]byte, len(want))
		if _, err := file.ReadAt(p, off); err != nil || string(p) != want {
			t.Errorf("at %d: %q, %v; want %q", off, p, err, want)
		}
	}
}
