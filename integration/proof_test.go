package integration

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestCraftedImage pulls an image that claims another's diffIDs for a layer of its own: everything in it fits, but containerd would give its
// layer to whoever pulls the other image. It is found out once it is complete: it cannot be read any more, nor used for a container, nor
// after a restart of the daemon. Once it is removed the genuine image runs, and its layers are proven.
func TestCraftedImage(t *testing.T) {
	reg := registry(t)
	o := daemon("auto")
	o.TOML = strings.Replace(o.TOML, "background = false", "background = true", 1)
	n := nodeWith(t, stack.NodeOptions{Daemon: o})
	im := lazyImage(t, odd)
	at := slices.IndexFunc(im.Manifest.Layers, func(l ocispec.Descriptor) bool { return l.Digest == largestLayer(t, odd).Digest })
	evil := remake(t, im, at, func(toc *estargz.JTOC) {
		toc.Entries = append(toc.Entries, &estargz.TOCEntry{Name: "evil", Type: "dir", Mode: 0o4777})
	}, 0)
	own := evil.diff
	var config ocispec.Image
	readBlob(t, im.Dir, im.Manifest.Config.Digest, &config)
	evil.diff = config.RootFS.DiffIDs[at]
	crafted := replace(t, im, at, evil)
	ref := upload(t, reg, crafted, "test/odd:crafted")
	genuine := upload(t, reg, im, "test/odd:esgz")
	layer := crafted.Manifest.Layers[at].Digest.String()

	pull(t, n, stack.Container{Ref: ref})
	eventually(t, "the crafted layer is refused", func() bool { return stateOf(t, n, layer) == "failed" })
	refused := func(when string) {
		t.Helper()
		if out, err := n.Run(t.Context(), lazily(stack.Container{Ref: ref})); err == nil {
			t.Errorf("%s the crafted image runs: %s", when, out)
		}
	}
	refused("found out,")
	lines := warnings(n, layer)
	if !slices.ContainsFunc(lines, func(line string) bool {
		return strings.Contains(line, ref) && strings.Contains(line, own.String()) && strings.Contains(line, "level=error")
	}) {
		t.Errorf("no line of the log names image, layer and diffID %s:\n%s", own, strings.Join(lines, "\n"))
	}
	m, err := n.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if count := m.Sum("sluice_proofs_total", map[string]string{"result": "refused"}); count != 1 {
		t.Errorf("%v layers were refused, by the metrics", count)
	}
	n.KillDaemon()
	if err := n.RestartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused("after a restart,")

	removeImage(t, n, "default", ref)
	pull(t, n, stack.Container{Ref: genuine})
	readRight(t, n, genuine)
	if state := stateOf(t, n, layer); state != "" {
		t.Errorf("the crafted layer is still there: %s", state)
	}
	eventually(t, "the genuine layers are proven", func() bool {
		m, err := n.Metrics(t.Context())
		return err == nil && m.Sum("sluice_proofs_total", map[string]string{"result": "proven"}) == float64(len(im.Manifest.Layers))
	})
	readRight(t, n, genuine)
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in a minute", what)
		}
	}
}

// stateOf is what the daemon says of a layer, "" if it is not mounted.
func stateOf(t *testing.T, n *stack.Node, layer string) string {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range s.Layers {
		if l.Digest == layer {
			return l.State
		}
	}
	return ""
}
