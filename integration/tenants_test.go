package integration

import (
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestTenants has one image in the repositories of two tenants of a token registry. The node has it for the first one. The second one
// is given what is on the node when the registry lets the node read it for them, and only then.
func TestTenants(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		im := lazyImage(t, odd)
		one := tenant{"one", "secret-1", lazily(stack.Container{Ref: upload(t, reg, im, "one/odd:esgz"), Namespace: "default"})}
		two := tenant{"two", "secret-2", lazily(stack.Container{Ref: upload(t, reg, im, "two/odd:esgz"), Namespace: "second"})}
		reg.Link.RequireTokens(link.TokenOptions{Tenants: map[string]string{one.name: one.secret, two.name: two.secret}})
		one.logIn(t, reg, n)
		if err := one.pull(t, n); err != nil {
			t.Fatal(err)
		}
		want := walk(t, n, one.Container, images.OddDir)

		// The registry has two's manifest for them, which names one's layers, and no layers.
		two.logIn(t, reg, n)
		layers := im.Manifest.Layers
		var digests []string
		for _, l := range layers {
			digests = append(digests, l.Digest.String())
		}
		path := regexp.MustCompile(`^/v2/two/.*/blobs/(` + strings.Join(digests, "|") + `)$`)
		refused := reg.Link.Inject(link.Rule{Path: path}, link.Status{Code: 404})
		if err := two.pull(t, n); err == nil {
			t.Error("the second tenant has pulled what their repository does not have")
		}
		if refused.Hits() == 0 {
			t.Error("the registry was not asked for the second tenant's layers")
		}
		if _, err := n.Run(t.Context(), two.Container); err == nil {
			t.Error("the second tenant runs what their repository does not have")
		}
		if got := len(mustStatus(t, n).Layers); got != len(layers) {
			t.Errorf("%d layers are mounted, want the first tenant's %d", got, len(layers))
		}
		refused.Remove()

		// It gives them the layers: the node has them already.
		reg.Link.ResetCounts()
		if err := two.pull(t, n); err != nil {
			t.Fatal(err)
		}
		if got := walk(t, n, two.Container, images.OddDir); len(got) != len(want) {
			t.Errorf("%d paths, the first tenant has %d", len(got), len(want))
		}
		got := reg.Link.Counts().Kinds[link.Blob]
		if most := int64(len(layers)); got.Bytes > most+im.Manifest.Config.Size || got.Requests == 0 {
			t.Errorf("%+v at the link, want a byte for each of %d layers", got, most)
		}

		// After a restart the registry, which refuses everybody now, is not asked for either.
		reg.Link.Inject(link.Rule{}, link.Status{Code: 403})
		n.KillDaemon()
		if err := n.RestartDaemon(t.Context()); err != nil {
			t.Fatal(err)
		}
		reg.Link.ResetCounts()
		sameTree(t, walk(t, n, two.Container, images.OddDir), walk(t, n, one.Container, images.OddDir))
		if got := reg.Link.Counts().Total().Requests; got != 0 {
			t.Errorf("%d requests after the restart", got)
		}
	})
}

// TestTenantWithoutNode has containerd log in for the second tenant, as with an image pull secret, and the daemon for the first only: the
// second's image is downloaded and unpacked, not taken from what the node has for the first.
func TestTenantWithoutNode(t *testing.T) {
	reg := registry(t)
	n := node(t, "auto")
	im := lazyImage(t, odd)
	one := tenant{"one", "secret-1", lazily(stack.Container{Ref: upload(t, reg, im, "one/odd:esgz"), Namespace: "default"})}
	two := tenant{"two", "secret-2", lazily(stack.Container{Ref: upload(t, reg, im, "two/odd:esgz"), Namespace: "second"})}
	reg.Link.RequireTokens(link.TokenOptions{Tenants: map[string]string{one.name: one.secret, two.name: two.secret}})
	one.logIn(t, reg, n)
	if err := one.pull(t, n); err != nil {
		t.Fatal(err)
	}
	reg.Link.ResetCounts()
	if err := two.pull(t, n); err != nil {
		t.Fatal(err)
	}
	if out := run(t, n, two.Container); out != hello {
		t.Errorf("it prints %q", out)
	}
	if got := reg.Link.Counts().Kinds[link.Blob]; got.Bytes < im.Size() {
		t.Errorf("%+v at the link, of an image of %d bytes", got, im.Size())
	}
}

// tenant is one with an image.
type tenant struct {
	name, secret string
	stack.Container
}

// logIn gives the daemon the tenant's credentials, and nobody else's.
func (o tenant) logIn(t *testing.T, reg *stack.Registry, n *stack.Node) {
	t.Helper()
	if err := n.AddDockerConfig(dockerConfig(reg.Link.Addr(), o.name, o.secret)); err != nil {
		t.Fatal(err)
	}
}

// pull pulls with the tenant's own credentials.
func (o tenant) pull(t *testing.T, n *stack.Node) error {
	t.Helper()
	_, err := n.Ctr(t.Context(), "-n", o.Namespace, "image", "pull", "--snapshotter", "sluice", "--user", o.name+":"+o.secret, o.Ref)
	return err
}

func mustStatus(t *testing.T, n *stack.Node) stack.Status {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}
