package fs

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// TestOneRequestForSmallLayers: what comes with the TOC is not fetched again, by whoever opens the layer and whoever mounts it.
func TestOneRequestForSmallLayers(t *testing.T) {
	var layers []blob
	for i := range 12 {
		layers = append(layers, buildBlob(t, []file{regular("a", noise(uint64(i), 30000)), regular("b", noise(uint64(i), 50000))}, "b"))
	}
	for _, background := range []bool{false, true} {
		r := newRegistry(t, layers...)
		n := newNode(t, Options{Background: background, Scheduler: layer.NewScheduler(layer.SchedulerOptions{})})
		for _, l := range layers {
			path := n.mountLayer(t, r.source(l))
			if err := n.Wait(t.Context(), []digest.Digest{l.digest}); err != nil {
				t.Fatal(err)
			}
			compare(t, path, l.files)
		}
		eventually(t, "all complete", func() bool {
			for _, s := range n.Status() {
				if s.State != Complete {
					return false
				}
			}
			return true
		})
		if blobs, manifests := r.blobs.Load(), r.manifests.Load(); blobs != int64(len(layers)) || manifests != 1 {
			t.Errorf("background %v: %d requests for blobs, %d for manifests", background, blobs, manifests)
		}
		eventually(t, "layers opened ahead are let go of", func() bool {
			n.ahead.mu.Lock()
			defer n.ahead.mu.Unlock()
			return len(n.ahead.layers) == 0
		})
	}
}

// TestSmallLayers: up to the size that is set, a layer comes whole with its TOC.
func TestSmallLayers(t *testing.T) {
	l := buildBlob(t, []file{regular("a", noise(1, 400_000))})
	for limit, whole := range map[int64]bool{0: true, 450_000: true, 350_000: false, -1: false} {
		r := newRegistry(t, l)
		n := newNode(t, Options{Mode: FUSE, SmallLayers: limit, Scheduler: layer.NewScheduler(layer.SchedulerOptions{})})
		compare(t, n.mountLayer(t, r.source(l)), l.files)
		if got := r.asked(l.digest); (got == 1) != whole {
			t.Errorf("up to %d bytes: %d requests", limit, got)
		}
	}
}

// TestMountDuringOpening: who mounts a layer that is being brought waits until it is among those that are open, and goes on with it.
func TestMountDuringOpening(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	r := newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	src := r.told(l)
	opened, put := make(chan *openLayer), make(chan struct{})
	go func() {
		err := n.share(t.Context(), l.digest, func(ctx context.Context) error {
			o, err := n.open(ctx, src)
			opened <- o
			<-put
			n.ahead.put(o)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}()
	want := <-opened // and in the store
	got := make(chan *openLayer)
	go func() {
		o, err := n.openMounted(t.Context(), src)
		if err != nil {
			t.Error(err)
		}
		got <- o
	}()
	select {
	case <-got:
		t.Fatal("it was not waited for")
	case <-time.After(100 * time.Millisecond):
	}
	close(put)
	o := <-got
	if o != want {
		t.Error("it was opened once more")
		if err := want.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}

// TestAheadOfOtherTOC: a layer that was opened for one image is not mounted for another that names another TOC.
func TestAheadOfOtherTOC(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	r := newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	src := r.told(l)
	open := func() *openLayer {
		t.Helper()
		o, err := n.open(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	n.ahead.put(open())
	other := src
	other.TOCDigest = digest.FromString("other")
	if _, err := n.openMounted(t.Context(), other); err == nil {
		t.Error("no error for another TOC")
	}
	n.ahead.put(open())
	elsewhere := src
	elsewhere.Ref = strings.Replace(r.ref, "/test/", "/other/", 1)
	got, err := n.openMounted(t.Context(), elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.places.list) != 2 || n.ahead.take(l.digest) != nil {
		t.Errorf("%d places", len(got.places.list))
	}
	if err := got.Close(); err != nil {
		t.Error(err)
	}
}

// TestListsWithTOCs: what layers say of their prefetch lists has these come along with the TOCs, of all layers of the image.
func TestListsWithTOCs(t *testing.T) {
	var layers []blob
	for i := range uint64(3) {
		l := buildBlob(t, []file{regular("listed", noise(2*i, 300_000)), regular("other", noise(2*i+1, 600_000))}, "listed")
		parsed, err := toc.Read(bytes.NewReader(l.bytes), int64(len(l.bytes)), l.tocDigest)
		if err != nil {
			t.Fatal(err)
		}
		layout, err := parsed.Layout()
		if err != nil {
			t.Fatal(err)
		}
		end, _ := toc.Listed(nil).Extent(layout)
		l.annotations = map[string]string{
			toc.TOCDigestAnnotation: l.tocDigest.String(), toc.PrefetchSizeAnnotation: strconv.FormatInt(end, 10),
		}
		layers = append(layers, l)
	}
	r := newRegistry(t, layers...)
	n := newNode(t, Options{Mode: FUSE, SmallLayers: -1, Scheduler: layer.NewScheduler(layer.SchedulerOptions{})})
	n.mountLayer(t, r.source(layers[0]))
	eventually(t, "all layers are in the store, and nothing is on its way", func() bool {
		for _, l := range layers {
			if found, err := n.stored(l.digest); err != nil || !found {
				return false
			}
		}
		n.ahead.mu.Lock()
		defer n.ahead.mu.Unlock()
		return len(n.ahead.layers) == 0
	})
	for i, l := range layers {
		if asked := r.asked(l.digest); asked != 2 {
			t.Errorf("layer %d: %d requests before it is mounted, want one for the TOC and one for the list", i, asked)
		}
		path := n.mountLayer(t, r.source(l))
		if err := n.Wait(t.Context(), []digest.Digest{l.digest}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(path, "listed"))
		if err != nil || !bytes.Equal(got, l.files[0].data) {
			t.Errorf("layer %d: wrong contents, error %v", i, err)
		}
		if asked := r.asked(l.digest); asked != 2 {
			t.Errorf("layer %d: %d requests in the end", i, asked)
		}
	}
}
