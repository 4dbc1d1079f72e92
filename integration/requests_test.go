package integration

import (
	"errors"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/prepare"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/bench/workload"
	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// mostRequests are what a small program with a prefetch list may need until it is done, containerd's own among them, and not those that
// bring the rest of the image in the background.
const mostRequests = 12

// manifestRequests are containerd's: it asks what the tag is, and for the manifest, which Sluice has from it.
const manifestRequests = 2

// TestRequests counts the requests of a cold start of Python on the link of the benchmarks. It waits for all of the image to come before it
// counts, so that what is under way in the background is counted on both sides.
func TestRequests(t *testing.T) {
	w := workload.All()[0]
	im, err := w.Image(t.Context())
	if unavailable := (*images.UnavailableError)(nil); errors.As(err, &unavailable) {
		t.Skip(unavailable)
	}
	if err != nil {
		t.Fatal(err)
	}
	reg := registry(t)
	s := system.Sluice("sluice esgz prefetch", system.Prefetch, "")
	m := &prepare.Maker{Registry: reg, Systems: []system.System{s}, Progress: t.Logf}
	if err := errors.Join(m.Make(t.Context(), prepare.Subject{Name: w.Name, Image: im, Args: w.Args}), m.Missing(w.Name, s.Form)); err != nil {
		t.Fatal(err)
	}
	n := nodeWith(t, stack.NodeOptions{Daemon: &stack.DaemonOptions{TOML: system.Settings}})
	reg.Link.Shape(10*time.Millisecond, 100e6)
	reg.Link.ResetCounts()
	c := lazily(stack.Container{Ref: m.Ref(w.Name, s.Form), Args: w.Args})
	pull(t, n, c)
	if out := run(t, n, c); out != w.Output {
		t.Errorf("it prints %q, want %q", out, w.Output)
	}
	untilComplete(t, n)
	metrics, err := n.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := reg.Link.Counts()
	background := int(metrics.Sum("sluice_fetch_requests_total", map[string]string{"priority": "background"}))
	t.Logf("%+v in all; by Sluice: %d to resolve and on demand, %.0f for the prefetch list, %d in the background", all.Kinds,
		int(metrics.Sum("sluice_fetch_requests_total", map[string]string{"priority": "demand"})),
		metrics.Sum("sluice_fetch_requests_total", map[string]string{"priority": "prefetch"}), background)
	if got := all.Total().Requests - background; got > mostRequests {
		t.Errorf("%d requests until it was done, want at most %d", got, mostRequests)
	}
	if got := all.Kinds[link.Manifest].Requests; got != manifestRequests {
		t.Errorf("%d requests for manifests, want %d", got, manifestRequests)
	}
}
