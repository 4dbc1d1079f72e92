package integration

import (
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestFortyLayers pulls an image of many layers over a slow link: their TOCs come all at once, and containerd, which prepares one layer
// after the other, waits for little more than the first.
func TestFortyLayers(t *testing.T) {
	const latency = 50 * time.Millisecond
	plain := must(t, func() (*images.Image, error) { return images.Layers(t.Context(), 40) })
	im := must(t, func() (*images.Image, error) { return convert(plain, "layers-40", "/probe") })
	reg := registry(t)
	ref := upload(t, reg, im, "test/layers:lazy")
	n := nodeWith(t, stack.NodeOptions{Daemon: &stack.DaemonOptions{TOML: "[registry]\nconfig_path = \"$NODE/certs.d\"\n"}})
	reg.Link.Shape(latency, 25e6)
	reg.Link.ResetCounts()
	begin := time.Now()
	pull(t, n, stack.Container{Ref: ref})
	took := time.Since(begin)
	count, sum := prepares(t, n)
	got := reg.Link.Counts()
	t.Logf("pulled in %v; %d prepares in %v; %+v at the link", took, count, sum, got.Kinds)
	if want := len(im.Manifest.Layers); count != want {
		t.Errorf("%d prepares, want %d", count, want)
	}
	// The goal is a second and three round trips, on a machine that has nothing else to do.
	if limit := time.Duration(count) * latency; sum > limit {
		t.Errorf("prepares took %v, at most %v are wanted", sum, limit)
	}
	out := run(t, n, stack.Container{Ref: ref})
	if out != images.SampleLine+"\n" {
		t.Errorf("the container printed %q", out)
	}
}

// prepares returns how many calls of Prepare there were, and how long they took together.
func prepares(t *testing.T, n *stack.Node) (int, time.Duration) {
	t.Helper()
	m, err := n.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := m["sluice_prepare_seconds"].GetMetric()[0].GetHistogram()
	return int(h.GetSampleCount()), time.Duration(h.GetSampleSum() * float64(time.Second))
}
