package integration

import (
	"context"
	"runtime"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// goVersion is what the Goroot image prints.
func goVersion(t *testing.T, out string) {
	t.Helper()
	if want := "go version go1."; !strings.HasPrefix(out, want) || !strings.HasSuffix(out, runtime.GOOS+"/"+runtime.GOARCH+"\n") {
		t.Errorf("the container printed %q", out)
	}
}

// TestPullIsLazy pulls by each of the ways that people have, counts at the link, and runs.
func TestPullIsLazy(t *testing.T) {
	for _, c := range []struct {
		name    string
		version stack.Version
		cri     bool // pull and run as the kubelet does
		rpull   bool
	}{
		{name: "transfer service"},
		{name: "CRI", cri: true},
		{name: "rpull", rpull: true},
		{name: "containerd 1.7 CRI", version: stack.Containerd17, cri: true},
		{name: "containerd 1.7 rpull", version: stack.Containerd17, rpull: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachMount(t, func(t *testing.T, mount string) {
				reg := registry(t)
				im := lazyImage(t, goroot)
				ref := upload(t, reg, im, "test/goroot:esgz")
				n := nodeWith(t, stack.NodeOptions{
					Containerd: c.version, Daemon: daemon(mount), PauseImage: upload(t, reg, pause(t), "pause:latest"),
				})
				reg.Link.ResetCounts()
				var out string
				switch {
				case c.cri:
					out = runPod(t, reg, n, im, ref)
				case c.rpull:
					if _, err := n.CtrRemote(t.Context(), "image", "rpull", ref); err != nil {
						t.Fatal(err)
					}
					fewBytes(t, reg, im)
					out = run(t, n, stack.Container{Ref: ref})
				default:
					pull(t, n, stack.Container{Ref: ref})
					fewBytes(t, reg, im)
					out = run(t, n, stack.Container{Ref: ref})
				}
				goVersion(t, out)
				if got := reg.Link.Counts().Total(); got.Bytes > im.Size()/4 {
					t.Errorf("%+v at the link until the end, of %d bytes", got, im.Size())
				}
			})
		})
	}
}

// fewBytes checks that a pull took little more than TOCs and the prefetch list.
func fewBytes(t *testing.T, reg *stack.Registry, im *images.Image) {
	t.Helper()
	got := reg.Link.Counts()
	t.Logf("pull: %+v", got.Kinds)
	if got.Kinds[link.Blob].Bytes > im.Size()/4 {
		t.Errorf("%+v at the link after the pull, of %d bytes", got.Total(), im.Size())
	}
}

func runPod(t *testing.T, reg *stack.Registry, n *stack.Node, im *images.Image, ref string) string {
	t.Helper()
	c, err := n.CRI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	if err := c.Pull(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	fewBytes(t, reg, im)
	out, err := c.RunPod(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pull pulls for Sluice.
func pull(t *testing.T, n *stack.Node, c stack.Container) {
	t.Helper()
	if err := n.Pull(t.Context(), lazily(c)); err != nil {
		t.Fatal(err)
	}
}

// run runs on Sluice and returns standard output.
func run(t *testing.T, n *stack.Node, c stack.Container) string {
	t.Helper()
	out, err := n.Run(t.Context(), lazily(c))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func lazily(c stack.Container) stack.Container {
	c.Snapshotter = "sluice"
	return c
}
