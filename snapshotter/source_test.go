package snapshotter

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs"
)

const (
	criRef      = "containerd.io/snapshot/cri.image-ref"
	criLayer    = "containerd.io/snapshot/cri.layer-digest"
	criManifest = "containerd.io/snapshot/cri.manifest-digest"
	stargzRef   = "containerd.io/snapshot/remote/stargz.reference"
	stargzLayer = "containerd.io/snapshot/remote/stargz.digest"
	stargzTOC   = "containerd.io/snapshot/stargz/toc.digest"
)

func TestOfferedSource(t *testing.T) {
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	for _, test := range []struct {
		name   string
		labels map[string]string
		want   fs.Source
		label  string // of a LabelError
		err    error
	}{
		{name: "none", err: errNoSource},
		{name: "only a reference", labels: map[string]string{criRef: "h/a:b"}, err: errNoSource},
		{name: "only a digest", labels: map[string]string{criLayer: a.String()}, err: errNoSource},
		{name: "cri", labels: map[string]string{criRef: "h/a:b", criLayer: a.String(), criManifest: b.String(), stargzTOC: c.String()},
			want: fs.Source{Ref: "h/a:b", Digest: a, Manifest: b, TOCDigest: c}},
		{name: "stargz", labels: map[string]string{stargzRef: "h:5000/a@" + b.String(), stargzLayer: a.String()},
			want: fs.Source{Ref: "h:5000/a@" + b.String(), Digest: a}},
		{name: "both", labels: map[string]string{criRef: "h/a:b", criLayer: a.String(), stargzRef: "h/a:b", stargzLayer: a.String()},
			want: fs.Source{Ref: "h/a:b", Digest: a}},
		{name: "another reference", labels: map[string]string{criRef: "h/a:b", criLayer: a.String(), stargzRef: "x/y:z", stargzLayer: a.String()},
			label: stargzRef},
		{name: "another layer", labels: map[string]string{criRef: "h/a:b", criLayer: a.String(), stargzRef: "h/a:b", stargzLayer: b.String()},
			label: stargzLayer},
		{name: "cri, and half of stargz", labels: map[string]string{criRef: "h/a:b", criLayer: a.String(), stargzRef: "x/y:z"},
			want: fs.Source{Ref: "h/a:b", Digest: a}},
		{name: "stargz, and half of cri", labels: map[string]string{stargzRef: "h/a:b", stargzLayer: a.String(), criRef: "x/y:z"},
			want: fs.Source{Ref: "h/a:b", Digest: a}},
		{name: "half of each", labels: map[string]string{criRef: "h/a:b", stargzLayer: b.String()}, err: errNoSource},
		{name: "reference", labels: map[string]string{criRef: "/a:b", criLayer: a.String()}, label: criRef},
		{name: "reference with a scheme", labels: map[string]string{criRef: "http://h/a:b", criLayer: a.String()}, label: criRef},
		{name: "layer", labels: map[string]string{criRef: "h/a:b", criLayer: "sha256:../../x"}, label: criLayer},
		{name: "unknown algorithm", labels: map[string]string{criRef: "h/a:b", criLayer: "md5:d41d8cd98f00b204e9800998ecf8427e"}, label: criLayer},
		{name: "manifest", labels: map[string]string{criRef: "h/a:b", criLayer: a.String(), criManifest: "x"}, label: criManifest},
		{name: "TOC", labels: map[string]string{criRef: "h/a:b", criLayer: a.String(), stargzTOC: "x"}, label: stargzTOC},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := offeredSource(test.labels)
			var bad *LabelError
			switch {
			case test.label != "":
				if !errors.As(err, &bad) || bad.Label != test.label || !strings.Contains(err.Error(), test.label) {
					t.Errorf("got error %v, want one about label %s", err, test.label)
				}
			case !errors.Is(err, test.err):
				t.Errorf("got error %v, want %v", err, test.err)
			case got != test.want:
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// FuzzSource checks that what is recorded of a source reads back as it was, and
// that no label of the offer decides what is recorded.
func FuzzSource(f *testing.F) {
	d := digest.FromString("a").String()
	f.Add("h/a:b", d, d, d, int64(5))
	f.Add("", "sha256:", "x", "", int64(-1))
	f.Fuzz(func(t *testing.T, ref, layer, manifest, toc string, size int64) {
		labels := map[string]string{criRef: ref, criLayer: layer, criManifest: manifest, stargzTOC: toc,
			snapshots.LabelSnapshotRef: "target", referenceLabel: "forged", sizeLabel: "1"}
		src, err := offeredSource(labels)
		if err != nil {
			return
		}
		src.Size = size
		recorded := remoteLabels(labels, src)
		got, err := recordedSource(recorded)
		if err != nil || got != src {
			t.Fatalf("recorded %+v, read %+v, %v", src, got, err)
		}
		info := snapshots.Info{Kind: snapshots.KindCommitted, Labels: recorded}
		if kept := keepRemoteLabels(info, nil); kept[digestLabel] != src.Digest.String() || kept[snapshots.LabelSnapshotRef] != "target" {
			t.Fatalf("an update makes %v of %v", kept, recorded)
		}
	})
}

func TestLabelsOfOthersStay(t *testing.T) {
	labels := map[string]string{"a": "b", remoteLabel: "x", digestLabel: "y"}
	before := maps.Clone(labels)
	if got := withoutOurs(labels); !maps.Equal(got, map[string]string{"a": "b"}) {
		t.Errorf("got %v", got)
	}
	if !maps.Equal(labels, before) {
		t.Errorf("the caller's labels became %v", labels)
	}
}

func TestClaims(t *testing.T) {
	c, d := newClaims(), digest.FromString("a")
	one, err := c.hold(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.hold(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.seize(d); ok {
		t.Error("seized while held twice")
	}
	one()
	if _, ok := c.seize(d); ok {
		t.Error("seized while held once")
	}
	two()
	done, ok := c.seize(d)
	if !ok {
		t.Fatal("not seized when nobody holds it")
	}
	if _, ok := c.seize(d); ok {
		t.Error("seized twice")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.hold(ctx, d); !errors.Is(err, context.Canceled) {
		t.Errorf("hold of what is being released: got %v, want to wait until the context ends", err)
	}
	held := make(chan error)
	go func() {
		drop, err := c.hold(t.Context(), d)
		if err == nil {
			drop()
		}
		held <- err
	}()
	done()
	if err := <-held; err != nil {
		t.Error(err)
	}
	if len(c.layers) != 0 {
		t.Errorf("left: %v", c.layers)
	}
}
