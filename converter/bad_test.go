package converter_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/converter"
	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// spoil is a source whose blobs pass through change.
type spoil struct {
	endpoint.Source
	change func(ocispec.Descriptor, io.ReadCloser) io.ReadCloser
}

func (s spoil) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := s.Source.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	return s.change(desc, r), nil
}

// ofLayers changes the bytes of layers only.
func ofLayers(change func([]byte) []byte) func(ocispec.Descriptor, io.ReadCloser) io.ReadCloser {
	return func(desc ocispec.Descriptor, r io.ReadCloser) io.ReadCloser {
		if !strings.Contains(desc.MediaType, "layer") {
			return r
		}
		raw, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return io.NopCloser(errorReader{err})
		}
		return io.NopCloser(bytes.NewReader(change(raw)))
	}
}

type errorReader struct{ error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.error }

// mustFail converts into a layout that was not there, and checks that it is not there afterwards.
func mustFail(t *testing.T, ctx context.Context, src endpoint.Source, o converter.Options) error {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	dst, err := endpoint.NewLayoutTarget(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	report, failure := converter.Convert(ctx, src, dst, o)
	if failure == nil {
		t.Fatalf("converted: %+v", report)
	}
	if err := dst.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layout is still there: %v", err)
	}
	return failure
}

func TestBadBlobs(t *testing.T) {
	plain := tarOf(t, file("a", strings.Repeat("abc", 100000)))
	for _, tt := range []struct {
		name   string
		change func([]byte) []byte
		want   string
	}{
		{"truncated", func(b []byte) []byte { return b[:len(b)/2] }, "truncated: "},
		{"empty", func(b []byte) []byte { return nil }, "truncated: 0 bytes"},
		{"too long", func(b []byte) []byte { return append(b, 0) }, "too long"},
		{"bit flipped", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, ""},
		{"last byte flipped", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "wrong digest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := newLayout(t)
			src.tag(src.image(host, testLayer{tar: plain, compression: "gzip"}))
			_, raw := testLayer{tar: plain, compression: "gzip"}.packed(t)
			err := mustFail(t, t.Context(), spoil{src.source(), ofLayers(tt.change)}, converter.Options{})
			for _, want := range []string{tt.want, "layer " + digest.FromBytes(raw).String(), src.dir} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: does not say %q", err, want)
				}
			}
		})
	}
}

func TestUnsuitable(t *testing.T) {
	plain := tarOf(t, file("a", "a"))
	for _, tt := range []struct {
		name  string
		build func(*layout) ocispec.Descriptor
		sel   image.Selection
		want  string
	}{
		{"schema 1", func(l *layout) ocispec.Descriptor {
			return l.blob("application/vnd.docker.distribution.manifest.v1+prettyjws", []byte(`{"schemaVersion":1}`))
		}, image.Selection{}, "schema 1"},
		{"schema 1 in disguise", func(l *layout) ocispec.Descriptor {
			return l.blob(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":1,"fsLayers":[]}`))
		}, image.Selection{}, "schema 1"},
		{"encrypted", func(l *layout) ocispec.Descriptor {
			return l.image(host, testLayer{tar: plain, mediaType: ocispec.MediaTypeImageLayerGzip + "+encrypted"})
		}, image.Selection{}, "encrypted"},
		{"not a layer", func(l *layout) ocispec.Descriptor {
			return l.image(host, testLayer{tar: plain, mediaType: "application/x-squashfs"})
		}, image.Selection{}, `"application/x-squashfs"`},
		{"not a container", func(l *layout) ocispec.Descriptor {
			return l.imageAs(ocispec.MediaTypeImageManifest, "application/vnd.cncf.helm.config.v1+json", host)
		}, image.Selection{}, "not a container image"},
		{"not a manifest", func(l *layout) ocispec.Descriptor { return l.blob("text/plain", []byte("hello")) }, image.Selection{}, `"text/plain"`},
		{"other platform only", func(l *layout) ocispec.Descriptor {
			other := l.image(ocispec.Platform{OS: "plan9", Architecture: "mips"}, testLayer{tar: plain})
			return l.json(ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{other}})
		}, image.Selection{}, "plan9/mips"},
		{"wanted platform is another", func(l *layout) ocispec.Descriptor { return l.image(host, testLayer{tar: plain}) },
			image.Selection{Platforms: []ocispec.Platform{{OS: "plan9", Architecture: "mips"}}}, "is for"},
		{"empty index", func(l *layout) ocispec.Descriptor {
			return l.json(ocispec.MediaTypeImageIndex, ocispec.Index{})
		}, image.Selection{All: true}, "no image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := newLayout(t)
			src.tag(tt.build(src))
			err := mustFail(t, t.Context(), src.source(), converter.Options{Selection: tt.sel})
			if !errors.Is(err, image.ErrUnsuitable) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: is not unsuitable for %q", err, tt.want)
			}
		})
	}
}

func TestLies(t *testing.T) {
	plain := tarOf(t, file("a", "a"))
	for _, tt := range []struct {
		name  string
		build func(*layout) ocispec.Descriptor
		want  string
	}{
		{"diffID", func(l *layout) ocispec.Descriptor {
			m := manifestOf(l, l.image(host, testLayer{tar: plain}))
			config := ocispec.Image{Platform: host}
			config.RootFS.DiffIDs = []digest.Digest{digest.FromString("other")}
			m.Config = l.json(ocispec.MediaTypeImageConfig, config)
			return l.json(ocispec.MediaTypeImageManifest, m)
		}, "configuration says"},
		{"number of diffIDs", func(l *layout) ocispec.Descriptor {
			m := manifestOf(l, l.image(host, testLayer{tar: plain}))
			m.Layers = append(m.Layers, m.Layers[0])
			return l.json(ocispec.MediaTypeImageManifest, m)
		}, "1 diff_ids for 2 layers"},
		{"digest that is a path", func(l *layout) ocispec.Descriptor {
			m := manifestOf(l, l.image(host, testLayer{tar: plain}))
			m.Layers[0].Digest = "sha256:../../../../etc/passwd"
			return l.json(ocispec.MediaTypeImageManifest, m)
		}, "digest"},
		{"negative size", func(l *layout) ocispec.Descriptor {
			m := manifestOf(l, l.image(host, testLayer{tar: plain}))
			m.Layers[0].Size = -1
			return l.json(ocispec.MediaTypeImageManifest, m)
		}, "size -1"},
		{"media type", func(l *layout) ocispec.Descriptor {
			desc := l.image(host, testLayer{tar: plain})
			desc.MediaType = ocispec.MediaTypeImageIndex
			return desc
		}, "calls itself"},
		{"both index and manifest", func(l *layout) ocispec.Descriptor {
			return l.blob(ocispec.MediaTypeImageManifest, []byte(`{"layers":[],"manifests":[]}`))
		}, "both an index and a manifest"},
		{"huge manifest", func(l *layout) ocispec.Descriptor {
			desc := l.image(host, testLayer{tar: plain})
			desc.Size = endpoint.MaxDocument + 1
			return desc
		}, "at most"},
		{"not JSON", func(l *layout) ocispec.Descriptor { return l.blob(ocispec.MediaTypeImageManifest, []byte("<html>")) }, "parse"},
		{"not a tar", func(l *layout) ocispec.Descriptor {
			return l.image(host, testLayer{tar: bytes.Repeat([]byte("x"), 2000), compression: "gzip"})
		}, "read tar"},
		{"a path out of the layer", func(l *layout) ocispec.Descriptor {
			return l.image(host, testLayer{tar: tarOf(t, file("a/../../b", "b"))})
		}, ".."},
		{"a replaced hard link target", func(l *layout) ocispec.Descriptor {
			return l.image(host, testLayer{tar: tarOf(t, file("a", "1"), node(tar.TypeLink, "b", "a"), file("a", "2"))})
		}, "hard links were made to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := newLayout(t)
			src.tag(tt.build(src))
			if err := mustFail(t, t.Context(), src.source(), converter.Options{}); !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v: does not say %q", err, tt.want)
			}
		})
	}
}

func manifestOf(l *layout, desc ocispec.Descriptor) ocispec.Manifest {
	var m ocispec.Manifest
	l.parse(desc.Digest, &m)
	return m
}

func TestCancelled(t *testing.T) {
	for format := range formats {
		for _, stage := range []converter.Stage{converter.Fetching, converter.Compressing, converter.Pushing} {
			t.Run(string(format)+" "+string(stage), func(t *testing.T) {
				src := newLayout(t)
				src.tag(src.image(host, testLayer{tar: everything(t), compression: "gzip"}, testLayer{tar: tarOf(t, file("b", "b"))}))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				o := converter.Options{Format: format, Progress: func(p converter.Progress) {
					if p.Stage == stage {
						cancel()
					}
				}}
				if err := mustFail(t, ctx, src.source(), o); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
	}
}

// full is a target on a full disk.
type full struct{ endpoint.Target }

func (full) Push(context.Context, ocispec.Descriptor, endpoint.Opener) error { return syscall.ENOSPC }

func TestDiskFull(t *testing.T) {
	src := newLayout(t)
	src.tag(src.image(host, testLayer{tar: tarOf(t, file("big", strings.Repeat("0123456789", 200000)))}))
	t.Run("target", func(t *testing.T) {
		dst, err := endpoint.NewArchiveTarget(filepath.Join(t.TempDir(), "a.tar"), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err = converter.Convert(t.Context(), src.source(), full{dst}, converter.Options{}); !errors.Is(err, syscall.ENOSPC) {
			t.Error(err)
		}
		if err := dst.Close(); err != nil {
			t.Fatal(err)
		}
	})
	for name, size := range map[string]string{"spool": "size=64k", "compressed": "size=2100k"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, size); err != nil {
				t.Skipf("mount a small tmpfs: %v", err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			})
			t.Setenv("TMPDIR", dir)
			o := converter.Options{CompressionLevel: new(0)}
			dst, err := endpoint.NewLayoutTarget(filepath.Join(src.dir, "..", name), "")
			if err != nil {
				t.Fatal(err)
			}
			_, err = converter.Convert(t.Context(), src.source(), dst, o)
			if err == nil || !strings.Contains(err.Error(), "no space left on device") {
				t.Errorf("got %v", err)
			}
			if err := dst.Close(); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]converter.Options{
		"level": {CompressionLevel: new(10)}, "chunk size": {ChunkSize: 1 << 30}, "min chunk size": {MinChunkSize: -1},
		"format": {Format: "tar"}, "zstd level 0": {Format: toc.ZstdChunked, CompressionLevel: new(0)},
		"zstd level 23":                {Format: toc.ZstdChunked, CompressionLevel: new(23)},
		"min chunk size, zstd:chunked": {Format: toc.ZstdChunked, MinChunkSize: 1},
	} {
		t.Run(name, func(t *testing.T) {
			if err := o.Validate(); err == nil {
				t.Error("valid")
			}
		})
	}
}
