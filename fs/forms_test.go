package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// forms are the images of two registries with one blob: the first names its TOC, the second does not. lazily and plainly are what snapshots
// of them have recorded.
type forms struct {
	lazy, plain     blob
	with, without   *registry
	diffID          digest.Digest
	lazily, plainly Source // of snapshots
}

func newForms(t *testing.T, lazy blob) *forms {
	t.Helper()
	f := &forms{lazy: lazy, plain: lazy, diffID: lazy.diffID(t)}
	f.plain.tocDigest = ""
	f.with, f.without = newRegistry(t, f.lazy), newRegistry(t, f.plain)
	f.lazily, f.plainly = f.with.told(f.lazy), f.without.told(f.plain)
	f.plainly.DiffID = f.diffID
	f.lazily.Held, f.plainly.Held = true, true
	return f
}

// check reads the files of a layer. The plain form has a landmark and the TOC besides.
func (f *forms) check(t *testing.T, path string) {
	t.Helper()
	for _, want := range f.lazy.files {
		if want.data == nil {
			continue
		}
		if got, err := os.ReadFile(filepath.Join(path, want.Name)); err != nil || !bytes.Equal(got, want.data) {
			t.Errorf("%s: %d bytes, %v", want.Name, len(got), err)
		}
	}
}

// TestFormsOfSnapshots: snapshots go on with the form of their layer that another image has brought, after a restart too, without the registry.
func TestFormsOfSnapshots(t *testing.T) {
	for name, brings := range map[string]func(f *forms, n *node) error{
		"lazy":  func(f *forms, n *node) error { return n.Mount(t.Context(), f.with.source(f.lazy)) },
		"plain": func(f *forms, n *node) error { return n.Mount(t.Context(), f.without.bottom(f.plain, f.diffID)) },
	} {
		t.Run(name, func(t *testing.T) {
			inModes(t, func(t *testing.T, mode Mode) {
				f, root := newForms(t, buildBlob(t, proofFiles(1))), t.TempDir()
				n := openNode(t, root, Options{Mode: mode})
				if err := brings(f, n); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					f.check(t, n.mountLayer(t, f.lazily))
					f.check(t, n.mountLayer(t, f.plainly))
					n.close(t)
					f.with.fail.Store(500)
					f.without.fail.Store(500)
					n = openNode(t, root, Options{Mode: mode})
				}
				for _, src := range []Source{f.plainly, f.lazily} {
					if err := n.MountAgain(t.Context(), src); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// TestFormUnproven: a new image without a TOC does not wait for the proof of a lazy layer, and gets it once it is proven.
func TestFormUnproven(t *testing.T) {
	f := newForms(t, buildBlob(t, proofFiles(1)))
	n := newNode(t, Options{Mode: FUSE})
	n.mountLayer(t, f.with.source(f.lazy))
	fresh := f.without.bottom(f.plain, f.diffID)
	if err := n.Mount(t.Context(), fresh); !errors.Is(err, errUnproven) {
		t.Errorf("mounted before it is proven: %v", err)
	}
	wrong := f.plainly
	wrong.DiffID = digest.FromString("other")
	n.mountLayer(t, f.plainly)
	f.check(t, n.mountLayer(t, fresh))
	if src, err := n.Learned(fresh); err != nil || src.TOCDigest != "" || src.DiffID != f.diffID || src.Size != int64(len(f.lazy.bytes)) {
		t.Errorf("learned %+v, %v", src, err)
	}
	if src, err := n.Learned(f.with.source(f.lazy)); err != nil || src.TOCDigest != f.lazy.tocDigest || src.DiffID != "" {
		t.Errorf("learned %+v, %v", src, err)
	}
	if err := n.Mount(t.Context(), wrong); !errors.Is(err, ErrRefused) {
		t.Errorf("mounted for who claims another diffID: %v", err)
	}
}

// TestFormOfLie: a lazy layer whose TOC lies does not keep the genuine, plain one from the snapshots that had it, once no container has it.
func TestFormOfLie(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("restarted ", restarted), func(t *testing.T) {
			f, root := newForms(t, buildZstd(t, proofFiles(1), setuid)), t.TempDir()
			n := openNode(t, root, Options{Mode: FUSE})
			crafted := f.with.source(f.lazy)
			crafted.Chain = f.diffID
			path := n.mountLayer(t, crafted)
			if err := n.Mount(t.Context(), f.plainly); !errors.Is(err, ErrRefused) {
				t.Errorf("while a container has the crafted layer: %v", err)
			}
			if _, err := os.ReadFile(filepath.Join(path, "etc/zeros")); !errors.Is(err, unix.EIO) {
				t.Errorf("read of the crafted layer: %v", err)
			}
			if n.Drop(t.Name()); restarted {
				n.close(t)
				n = openNode(t, root, Options{Mode: FUSE})
			}
			f.check(t, n.mountLayer(t, f.plainly))
			if st := n.Status(); len(st) != 1 || st[0].Format != "zstd" {
				t.Errorf("status is %+v", st)
			}
			f.check(t, n.mountLayer(t, crafted)) // which claims this diffID
		})
	}
}
