package endpoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func blobOf(content string) (ocispec.Descriptor, Opener) {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(content), Size: int64(len(content))}
	return desc, Bytes([]byte(content))
}

// places are the two targets on disk, and the sources that read them.
var places = map[string]struct {
	target func(path, tag string) (Target, error)
	source func(path, tag string) (Source, error)
}{
	"layout":  {NewLayoutTarget, NewLayoutSource},
	"archive": {NewArchiveTarget, NewArchiveSource},
}

func TestRoundTrip(t *testing.T) {
	for name, l := range places {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			dst, err := l.target(path, "v1")
			if err != nil {
				t.Fatal(err)
			}
			blob, open := blobOf("a blob")
			for range 2 { // the second time it is there
				if err := dst.Push(t.Context(), blob, open); err != nil {
					t.Fatal(err)
				}
			}
			root, _ := blobOf("root")
			if err := dst.Tag(t.Context(), root, []byte("root")); err != nil {
				t.Fatal(err)
			}
			if err := dst.Close(); err != nil {
				t.Fatal(err)
			}
			for _, tag := range []string{"", "v1"} {
				checkSource(t, l.source, path, tag, root, blob)
			}
			src, err := l.source(path, "v2")
			if err != nil {
				t.Fatal(err)
			}
			defer closeOrFail(t, src)
			if _, err := src.Resolve(t.Context()); err == nil || !strings.Contains(err.Error(), "v1") {
				t.Errorf("another tag: %v, want an error that lists v1", err)
			}
			mustBeClean(t, filepath.Dir(path), "image")
		})
	}
}

func checkSource(t *testing.T, open func(path, tag string) (Source, error), path, tag string, root, blob ocispec.Descriptor) {
	t.Helper()
	src, err := open(path, tag)
	if err != nil {
		t.Fatal(err)
	}
	defer closeOrFail(t, src)
	got, err := src.Resolve(t.Context())
	if err != nil || got.Digest != root.Digest {
		t.Errorf("resolve %q: %v, %v", tag, got, err)
	}
	if raw, err := ReadDocument(t.Context(), src, blob); err != nil || string(raw) != "a blob" {
		t.Errorf("read: %q, %v", raw, err)
	}
	ra, err := src.ReaderAt(t.Context(), blob)
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	p := make([]byte, 4)
	if _, err := ra.ReadAt(p, 2); err != nil || string(p) != "blob" {
		t.Errorf("ReadAt: %q, %v", p, err)
	}
	missing, _ := blobOf("missing")
	if _, err := src.Fetch(t.Context(), missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing blob: %v", err)
	}
}

// mustBeClean wants exactly these names in dir.
func mustBeClean(t *testing.T, dir string, names ...string) {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != len(names) {
		t.Errorf("%s holds %v, want %q", dir, found, names)
	}
}

func closeOrFail(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	for name, l := range places {
		for fault, open := range map[string]Opener{
			"wrong content": Bytes([]byte("a blab")),
			"short":         Bytes([]byte("a b")),
			"long":          Bytes([]byte("a blob and more")),
			"no content":    func() (io.ReadCloser, error) { return nil, errors.New("gone") },
		} {
			t.Run(name+" "+fault, func(t *testing.T) {
				dir := t.TempDir()
				dst, err := l.target(filepath.Join(dir, "image"), "")
				if err != nil {
					t.Fatal(err)
				}
				good, openGood := blobOf("good")
				if err := dst.Push(t.Context(), good, openGood); err != nil {
					t.Fatal(err)
				}
				blob, _ := blobOf("a blob")
				if err := dst.Push(t.Context(), blob, open); err == nil {
					t.Error("pushed")
				}
				if err := dst.Close(); err != nil {
					t.Error(err)
				}
				mustBeClean(t, dir)
			})
		}
	}
}

// TestFailureKeepsWhatWasThere has a failed run take back its own blobs from a layout, and no others.
func TestFailureKeepsWhatWasThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "image")
	first, err := NewLayoutTarget(dir, "first")
	if err != nil {
		t.Fatal(err)
	}
	root, open := blobOf("first")
	if err := first.Tag(t.Context(), root, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := NewLayoutTarget(dir, "second")
	if err != nil {
		t.Fatal(err)
	}
	other, openOther := blobOf("other")
	if err := errors.Join(second.Push(t.Context(), root, open), second.Push(t.Context(), other, openOther), second.Close()); err != nil {
		t.Fatal(err)
	}
	mustBeClean(t, filepath.Join(dir, "blobs", "sha256"), root.Digest.Encoded())
	mustBeClean(t, dir, "blobs", "index.json", "oci-layout")
}

func TestManyTagsAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "image")
	var wg sync.WaitGroup
	for _, tag := range strings.Split("abcdefgh", "") {
		wg.Go(func() {
			dst, err := NewLayoutTarget(dir, tag)
			if err != nil {
				t.Error(err)
				return
			}
			root, _ := blobOf(tag)
			if err := errors.Join(dst.Tag(t.Context(), root, []byte(tag)), dst.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, tag := range strings.Split("abcdefgh", "") {
		src, err := NewLayoutSource(dir, tag)
		if err != nil {
			t.Fatal(err)
		}
		if desc, err := src.Resolve(t.Context()); err != nil || desc.Digest != digest.FromString(tag) {
			t.Errorf("%s: %v, %v", tag, desc, err)
		}
	}
}

func TestArchiveIsReplacedWhole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	dst, err := NewArchiveTarget(file, "")
	if err != nil {
		t.Fatal(err)
	}
	blob, open := blobOf("blob")
	if err := errors.Join(dst.Push(t.Context(), blob, open), dst.Close()); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "old" {
		t.Errorf("after a failure: %q, %v", raw, err)
	}
}

func TestBadPlaces(t *testing.T) {
	dir := t.TempDir()
	gz := filepath.Join(dir, "a.tar.gz")
	if err := os.WriteFile(gz, bytes.Repeat([]byte{0x1f, 0x8b, 8}, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty.tar")
	if err := os.WriteFile(empty, make([]byte, 1024), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (io.Closer, error){
		"no layout":          func() (io.Closer, error) { return NewLayoutSource(dir, "") },
		"no archive":         func() (io.Closer, error) { return NewArchiveSource(filepath.Join(dir, "none"), "") },
		"compressed archive": func() (io.Closer, error) { return NewArchiveSource(gz, "") },
		"other tar":          func() (io.Closer, error) { return NewArchiveSource(empty, "") },
		"no parent":          func() (io.Closer, error) { return NewLayoutTarget(filepath.Join(dir, "a", "b"), "") },
		"file for a folder":  func() (io.Closer, error) { return NewLayoutTarget(gz, "") },
		"folder for a file":  func() (io.Closer, error) { return NewArchiveTarget(dir, "") },
		"no folder":          func() (io.Closer, error) { return NewArchiveTarget(filepath.Join(dir, "a", "b"), "") },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(); err == nil {
				t.Error("opened")
			}
		})
	}
	mustBeClean(t, dir, "a.tar.gz", "empty.tar")
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	blob, _ := blobOf("content")
	r := Verify(ctx, strings.NewReader("content"), blob)
	gone := errors.New("gone")
	cancel(gone)
	if _, err := io.ReadAll(r); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

// FuzzResolveTag: no index.json makes it panic, and what it finds stands in there.
func FuzzResolveTag(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"digest":"sha256:00","annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`), "v1")
	f.Add([]byte(`{}`), "")
	f.Add([]byte(`[]`), "latest")
	f.Fuzz(func(t *testing.T, raw []byte, tag string) {
		desc, err := resolveTag(raw, tag)
		if err != nil {
			return
		}
		next, err := setTag(raw, desc, "fuzz")
		if err != nil {
			t.Fatalf("resolved, and cannot be tagged: %v", err)
		}
		if again, err := resolveTag(next, "fuzz"); err != nil || again.Digest != desc.Digest || again.Size != desc.Size {
			t.Fatalf("tagged %v, resolved %v, %v", desc, again, err)
		}
	})
}
