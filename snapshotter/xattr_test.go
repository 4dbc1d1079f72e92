package snapshotter_test

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// xattrFile is a file or folder of a layer with xattrs.
type xattrFile struct {
	content string            // of a file
	kept    map[string]string // what a container finds
	dropped map[string]string // what means something to overlayfs and is not for layers to say
}

// xattrFiles are put on top of bottomFiles. The xattrs of SELinux and IMA are on this kernel what any other security.* is. The
// kernel's limit for a value is 64 KiB; EROFS counts in 16 bits, so that a byte less is the most that it holds.
var xattrFiles = map[string]xattrFile{
	"file": {content: "file", kept: map[string]string{
		"user.simple":         "value",
		"user.medium":         strings.Repeat("x", 3000),
		"user.empty":          "",
		"security.selinux":    "system_u:object_r:container_file_t:s0\x00",
		"security.ima":        "\x03\x02\x04",
		"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", // cap_net_raw+ep
	}},
	"large": {content: "large", kept: map[string]string{"user.large": strings.Repeat("0123456789abcde", 1<<16/15)}},
	"a/": {
		kept:    map[string]string{"user.folder": "a"},
		dropped: map[string]string{"trusted.overlay.opaque": "y", "user.overlay.opaque": "y", "trusted.overlay.origin": "x"},
	},
	"moved/": {dropped: map[string]string{"trusted.overlay.redirect": "/a"}},
	"meta": {
		content: "its own",
		kept:    map[string]string{"user.meta": "m"},
		dropped: map[string]string{"trusted.overlay.metacopy": "", "trusted.overlay.redirect": "/big", "trusted.other": "x"},
	},
	"ours/.wh..wh..opq": {},
}

// xattrTar is a layer of xattrFiles.
func xattrTar(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(xattrFiles)) {
		f := xattrFiles[name]
		h := tar.Header{Name: name, Mode: 0o755, Size: int64(len(f.content)), Format: tar.FormatPAX, PAXRecords: make(map[string]string)}
		for _, xattrs := range []map[string]string{f.kept, f.dropped} {
			for name, value := range xattrs {
				h.PAXRecords["SCHILY.xattr."+name] = value
			}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestXattrs reads xattrs of a layer as overlayfs does, and as a container does.
func TestXattrs(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand, kind string) {
		r := newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.lazyTar(t, xattrTar(t)))
		openStand(t, s)
		ctx, sn := namespace(t, "test"), s.containerd()
		if _, err := img.pull(ctx, sn, "pull"); err != nil {
			t.Fatal(err)
		}
		s.until(t, kind)
		path, err := s.fs.Path(img.layers[1].desc.Digest, "test")
		if err != nil {
			t.Fatal(err)
		}
		compareXattrs(t, path, map[string]string{"trusted.overlay.opaque": "y"})
		mounts, err := sn.Prepare(ctx, "container", img.top())
		if err != nil {
			t.Fatal(err)
		}
		err = mount.WithTempMount(ctx, mounts, func(root string) error {
			compareXattrs(t, root, nil)
			compareMerged(t, root)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// compareMerged checks that at root, where a container is, overlayfs has not heeded what xattrFiles say to it.
func compareMerged(t *testing.T, root string) {
	t.Helper()
	for name, want := range map[string]string{"a/bottom": "the bottom", "meta": "its own"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	if moved, err := os.ReadDir(filepath.Join(root, "moved")); err != nil || len(moved) > 0 {
		t.Errorf("what a layer calls moved has %v, %v", moved, err)
	}
}

// compareXattrs checks that what is at root has the xattrs that are kept of xattrFiles, and no others. ours are those of a folder that
// hides what is below it.
func compareXattrs(t *testing.T, root string, ours map[string]string) {
	t.Helper()
	for name, f := range xattrFiles {
		want := f.kept
		if whole, ok := strings.CutSuffix(name, "/.wh..wh..opq"); ok {
			name, want = whole, ours
		}
		got, err := xattrsOf(filepath.Join(root, name))
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("xattrs of %s are %.200q, %v, want %.200q", name, got, err, want)
		}
	}
}

func xattrsOf(path string) (map[string]string, error) {
	b := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, b)
	if err != nil {
		return nil, err
	}
	xattrs := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00") {
		if name == "" {
			break // there are none
		}
		n, err := unix.Lgetxattr(path, name, b)
		if err != nil {
			return nil, &os.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		xattrs[name] = string(b[:n])
	}
	return xattrs, nil
}
