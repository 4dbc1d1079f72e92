package fs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// crowd has the node make all room that it can, without any grace, and expects nothing to be left.
func (n *node) crowd(t *testing.T) {
	t.Helper()
	n.relief <- struct{}{}
	n.grace = 0
	<-n.relief
	n.bound(1)
	n.MakeRoom()
	if used := n.store.Used(); used > 0 {
		t.Errorf("nobody uses a layer, room is wanted, and %d bytes stay", used)
	}
}

// TestEvictDamaged: a layer that is damaged, so that it is not mounted, is in nobody's way: it is removed to make room, and when somebody says so.
func TestEvictDamaged(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	for _, name := range []string{"layer.json", "present", "chunks", "meta.erofs"} {
		t.Run(name, func(t *testing.T) {
			r, root := newRegistry(t, l), t.TempDir()
			damaged := func() *node {
				n := openNode(t, root, Options{Mode: FUSE})
				n.mountLayer(t, r.source(l))
				n.close(t)
				path := filepath.Join(root, "root", "layers", "sha256", l.digest.Encoded(), name)
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				b[1] ^= 0x40
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				n = openNode(t, root, Options{Mode: FUSE})
				if n.store.Used() == 0 {
					t.Fatal("it does not count")
				}
				return n
			}
			n := damaged()
			n.crowd(t)
			n.close(t)
			n = damaged()
			if bytes, err := n.Remove(t.Context(), l.digest); err != nil || bytes == 0 || n.store.Used() > 0 {
				t.Errorf("%d bytes, %v; %d stay", bytes, err, n.store.Used())
			}
			n.close(t)
		})
	}
}

// TestEvictRefused: a layer that was found out holds no room, neither after a restart, when it is not mounted, nor where it was never shown.
func TestEvictRefused(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r, results, root := newRegistry(t, l), make(chan bool, 10), t.TempDir()
	src := r.source(l)
	src.Chain = digest.FromString("that of a popular base layer")
	n := openNode(t, root, proving(FUSE, results))
	n.mountLayer(t, src)
	if <-results {
		t.Fatal("it was found to be right")
	}
	known, err := n.Source(l.digest)
	if err != nil {
		t.Fatal(err)
	}
	src.TOCDigest, src.Held = known.TOCDigest, true
	n.close(t)
	n = openNode(t, root, proving(FUSE, results))
	if err := n.MountAgain(t.Context(), src); !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
	n.crowd(t)
	n.close(t)

	n = newNode(t, distrusting(FUSE, results))
	src = guest(r.source(l))
	src.Chain = digest.FromString("that of a popular base layer")
	if err := n.Mount(t.Context(), src); !errors.Is(err, ErrUntrusted) {
		t.Fatal(err)
	}
	n.crowd(t)
}
