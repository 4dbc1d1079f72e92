package fs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestChurn mounts, reads and unmounts the same layers from all sides.
func TestChurn(t *testing.T) {
	layers := []blob{
		buildBlob(t, []file{regular("file", noise(1, 200000))}),
		buildBlob(t, []file{regular("file", noise(2, 200000))}),
	}
	inModes(t, func(t *testing.T, mode Mode) {
		r := newRegistry(t, layers...)
		n := newNode(t, Options{Mode: mode, Background: true})
		var wg sync.WaitGroup
		for worker := range 6 {
			wg.Go(func() {
				for i := range 15 {
					l := layers[(worker+i)%2]
					if err := n.Mount(t.Context(), r.source(l)); err != nil {
						t.Errorf("mount: %v", err)
						return
					}
					n.Status()
					path, err := n.Path(l.digest, t.Name())
					if err == nil { // else somebody was faster
						got, err := os.ReadFile(filepath.Join(path, "file"))
						if err == nil && !bytes.Equal(got, l.files[0].data) {
							t.Error("wrong bytes")
						}
					}
					if worker%3 == 0 {
						if err := n.Unmount(t.Context(), l.digest); err != nil {
							t.Errorf("unmount: %v", err)
						}
					}
				}
			})
		}
		wg.Wait()
		for _, l := range layers {
			compare(t, n.mountLayer(t, r.source(l)), l.files)
		}
	})
}

// TestExec runs a program from a mount, whose pages come as it faults.
func TestExec(t *testing.T) {
	program, err := os.ReadFile("/bin/echo")
	if err != nil {
		t.Skip(err)
	}
	f := regular("echo", program)
	f.Mode = 0o755
	l := buildBlob(t, []file{f})
	inModes(t, func(t *testing.T, mode Mode) {
		n := newNode(t, Options{Mode: mode})
		path := n.mountLayer(t, newRegistry(t, l).source(l))
		// By a shell: this process must not do it itself, see the package comment.
		if got, err := exec.Command("sh", "-c", `"$0" hello; exit $?`, filepath.Join(path, "echo")).Output(); err != nil || string(got) != "hello\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// TestCutOff: somebody else unmounts the blob server; Close still ends.
func TestCutOff(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	inModes(t, func(t *testing.T, mode Mode) {
		n := newNode(t, Options{Mode: mode})
		n.mountLayer(t, newRegistry(t, l).source(l))
		if err := unix.Unmount(n.server.full.dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		<-n.server.full.ended
		if err := n.FS.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := n.Mount(t.Context(), Source{Ref: "a/b", Digest: l.digest}); !errors.Is(err, errClosed) {
			t.Errorf("mount after close: %v", err)
		}
		if err := n.store.Close(); err != nil {
			t.Error(err)
		}
		n.FS = nil
	})
}

func TestNames(t *testing.T) {
	for _, id := range []uint32{1, 42, 1<<32 - 1} {
		if got, blob, ok := parseName(blobName(id)); got != id || !blob || !ok {
			t.Errorf("%s: %d, %v, %v", blobName(id), got, blob, ok)
		}
		if got, blob, ok := parseName(treeName(id)); got != id || blob || !ok {
			t.Errorf("%s: %d, %v, %v", treeName(id), got, blob, ok)
		}
		if got, _, tree := splitNode(blobNode(id)); got != id || tree {
			t.Errorf("blob of %d: %d, %v", id, got, tree)
		}
		for _, nid := range []uint64{0, 36, 1<<32 - 2} {
			if got, n, tree := splitNode(treeNode(id, nid)); got != id || n != nid || !tree {
				t.Errorf("inode %d of %d: %d of %d, %v", nid, id, n, got, tree)
			}
		}
	}
	for _, name := range []string{"", "0", "01", "+1", "-1", "1.blob.blob", ".blob", "x", "4294967296"} {
		if id, _, ok := parseName(name); ok {
			t.Errorf("%q is layer %d", name, id)
		}
	}
}
