package images

import (
	"archive/tar"
	"context"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
)

func TestManyFiles(t *testing.T) {
	const layers, files = 2, 2000 // of two members each
	im := made(t, func(ctx context.Context, n int) (*Image, error) { return ManyFiles(ctx, n, files) }, layers)
	found := 0
	for _, h := range check(t, im) {
		if h.Typeflag == tar.TypeReg && strings.HasPrefix(h.Name, "srv/") {
			found++
		}
	}
	if found != layers*files {
		t.Errorf("%d files, want %d in each of %d layers", found, files, layers)
	}
	for i, l := range im.Manifest.Layers {
		if lazy := l.Annotations[estargz.TOCJSONDigestAnnotation] != ""; lazy != (i < layers) {
			t.Errorf("layer %d is lazy: %v", i, lazy)
		}
	}
	if _, err := ManyFiles(t.Context(), 1, samples-1); err == nil {
		t.Error("fewer files than the command reads are accepted")
	}
}
