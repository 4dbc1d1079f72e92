package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// craft makes an image of which the largest layer has a directory name that is not in its tar, and returns that layer's own diffID, and the digest
// of its blob. Its configuration claims claim for it, or what it really has if that is "".
func craft(t *testing.T, im *images.Image, name string, claim digest.Digest) (crafted *images.Image, own, blob digest.Digest) {
	t.Helper()
	at := largestAt(t, im)
	evil := remake(t, im, at, func(toc *estargz.JTOC) {
		toc.Entries = append(toc.Entries, &estargz.TOCEntry{Name: name, Type: "dir", Mode: 0o4777})
	}, 0)
	own = evil.diff
	if claim != "" {
		evil.diff = claim
	}
	crafted = replace(t, im, at, evil)
	return crafted, own, crafted.Manifest.Layers[at].Digest
}

// largestAt is which layer of an image is the largest.
func largestAt(t *testing.T, im *images.Image) int {
	t.Helper()
	return slices.IndexFunc(im.Manifest.Layers, func(l ocispec.Descriptor) bool { return l.Digest == largestLayer(t, odd).Digest })
}

// diffIDs are those that an image claims.
func diffIDs(t *testing.T, im *images.Image) []digest.Digest {
	t.Helper()
	var config ocispec.Image
	readBlob(t, im.Dir, im.Manifest.Config.Digest, &config)
	return config.RootFS.DiffIDs
}

// TestCraftedImage pulls an image that claims another's diffIDs for a layer of its own: everything in it fits, but containerd would give its
// layer to whoever pulls the other image. It is found out once it is complete: it cannot be read any more, nor used for a container, nor
// after a restart of the daemon. Once it is removed the genuine image runs, and its layers are proven.
func TestCraftedImage(t *testing.T) {
	reg := registry(t)
	o := daemon("auto")
	o.TOML = strings.Replace(o.TOML, "background = false", "background = true", 1)
	n := nodeWith(t, stack.NodeOptions{Daemon: o})
	im := lazyImage(t, odd)
	crafted, own, blob := craft(t, im, "evil", diffIDs(t, im)[largestAt(t, im)])
	ref := upload(t, reg, crafted, "test/odd:crafted")
	genuine := upload(t, reg, im, "test/odd:esgz")
	layer := blob.String()

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
	untilProven(t, n, len(im.Manifest.Layers))
	readRight(t, n, genuine)

	// Pulled again, it is known: containerd has to unpack it, and finds that out itself.
	removeImage(t, n, "default", genuine)
	if err := n.Pull(t.Context(), lazily(stack.Container{Ref: ref})); err == nil {
		t.Error("the crafted image was pulled again")
	}
	if state := stateOf(t, n, layer); state != "" {
		t.Errorf("the crafted layer is mounted again: %s", state)
	}
}

// TestCraftedTree pulls an image whose layer is what it claims to be, by its diffID, and whose TOC has a directory that is not in the tar.
func TestCraftedTree(t *testing.T) {
	reg := registry(t)
	o := daemon("auto")
	o.TOML = strings.Replace(o.TOML, "background = false", "background = true", 1)
	n := nodeWith(t, stack.NodeOptions{Daemon: o})
	crafted, _, blob := craft(t, lazyImage(t, odd), "evil", "")
	ref := upload(t, reg, crafted, "test/odd:crafted")
	pull(t, n, stack.Container{Ref: ref})
	eventually(t, "the crafted layer is refused", func() bool { return stateOf(t, n, blob.String()) == "failed" })
	if out, err := n.Run(t.Context(), lazily(stack.Container{Ref: ref})); err == nil {
		t.Errorf("the crafted image runs: %s", out)
	}
	lines := warnings(n, blob.String())
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, ref) && strings.Contains(line, "/evil") }) {
		t.Errorf("no line of the log names image and file:\n%s", strings.Join(lines, "\n"))
	}
}

// TestUntrustedImage pulls crafted images that are listed as untrusted: the pulls fail and say why, and nothing of the layers is ever mounted. Genuine
// ones run, and are there as a whole before they do.
func TestUntrustedImage(t *testing.T) {
	reg := registry(t)
	o := daemon("auto")
	o.TOML += "[[fetch.untrusted]]\nmatch = \"*/guests\"\n"
	n := nodeWith(t, stack.NodeOptions{Daemon: o})
	im := lazyImage(t, odd)
	for name, claim := range map[string]digest.Digest{"tar": diffIDs(t, im)[largestAt(t, im)], "tree": ""} {
		crafted, _, blob := craft(t, im, "evil-"+name, claim)
		ref := upload(t, reg, crafted, "guests/odd:"+name)
		for range 2 {
			err := n.Pull(t.Context(), lazily(stack.Container{Ref: ref}))
			if err == nil || !strings.Contains(err.Error(), "not trusted") {
				t.Errorf("%s: the pull of a crafted image: %v", name, err)
			}
			if state := stateOf(t, n, blob.String()); state != "" {
				t.Errorf("%s: the crafted layer is %s", name, state)
			}
		}
		if out, err := n.Run(t.Context(), lazily(stack.Container{Ref: ref})); err == nil {
			t.Errorf("%s: the crafted image runs: %s", name, out)
		}
	}
	ref := upload(t, reg, im, "guests/odd:genuine")
	pull(t, n, stack.Container{Ref: ref})
	for _, l := range im.Manifest.Layers {
		if state := stateOf(t, n, l.Digest.String()); state != "complete" {
			t.Errorf("layer %s of the genuine image is %q once it is pulled", l.Digest, state)
		}
	}
	readRight(t, n, ref)
	m, err := n.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if count := m.Sum("sluice_proofs_total", map[string]string{"result": "refused"}); count != 2 {
		t.Errorf("%v layers were refused, by the metrics", count)
	}
}

// untilProven waits until so many layers have turned out to be what their images claim.
func untilProven(t *testing.T, n *stack.Node, layers int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d layers are proven", layers), func() bool {
		m, err := n.Metrics(t.Context())
		return err == nil && m.Sum("sluice_proofs_total", map[string]string{"result": "proven"}) == float64(layers)
	})
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
