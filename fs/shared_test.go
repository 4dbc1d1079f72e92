package fs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An image is not given what another image's registry sent under the digest of its layer, while that is mounted or
// only stored, whether its TOC digest comes from a label or from its manifest.
func TestOtherTOC(t *testing.T) {
	victim := buildBlob(t, []file{regular("file", []byte("genuine"))})
	lie := buildBlob(t, []file{regular("file", []byte("evil"))})
	lie.digest = victim.digest
	for name, labelled := range map[string]bool{"label": true, "manifest": false} {
		t.Run(name, func(t *testing.T) {
			liar, good := newRegistry(t, lie), newRegistry(t, victim)
			root := t.TempDir()
			n := openNode(t, root, Options{Mode: FUSE})
			n.mountLayer(t, liar.source(lie))
			src := good.source(victim)
			if labelled {
				src.TOCDigest = victim.tocDigest
			}
			refused := func() {
				t.Helper()
				err := n.Mount(t.Context(), src)
				if err == nil || !strings.Contains(err.Error(), victim.tocDigest.String()) {
					t.Errorf("Mount returned %v, want an error that names the TOC %s", err, victim.tocDigest)
				}
			}
			refused()
			n.close(t)
			n = openNode(t, root, Options{Mode: FUSE})
			refused()
			n.close(t)
		})
	}
}

// A layer that images of two repositories share is read from the second when the first has lost it.
func TestSharedLayerHasTwoSources(t *testing.T) {
	content := []byte(noise(1, 300_000))
	l := buildBlob(t, []file{regular("file", content)})
	first, second := newRegistry(t, l), newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	n.mountLayer(t, first.source(l))
	first.fail.Store(404)
	path := n.mountLayer(t, second.source(l))
	got, err := os.ReadFile(filepath.Join(path, "file"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if second.blobs.Load() == 0 {
		t.Error("the second registry was not asked")
	}
}

func TestCloseTwice(t *testing.T) {
	n := newNode(t, Options{Mode: FUSE})
	for range 2 {
		if err := n.FS.Close(); err != nil {
			t.Error(err)
		}
	}
}
