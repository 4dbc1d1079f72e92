package integration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// firstID is the host's id of root in the user namespaces here, which have idCount ids.
const firstID, idCount = 100_000, 1 << 16

// inUserNamespace are the flags of ctr for a container in a user namespace, whose ids the snapshotter is to map if it can.
var inUserNamespace = []string{
	"--uidmap", fmt.Sprintf("0:%d:%d", firstID, idCount), "--gidmap", fmt.Sprintf("0:%d:%d", firstID, idCount), "--remap-labels",
}

func remapping(mount string) *stack.DaemonOptions {
	o := daemon(mount)
	o.Capabilities = []string{"remap-ids"}
	return o
}

// TestUserNamespace runs a container in a user namespace beside one without, from the same mounts, and starts it again after the
// daemon was killed.
func TestUserNamespace(t *testing.T) {
	plain, lazy := plainImage(t, odd), lazyImage(t, odd)
	dirs := []string{images.OddDir, "/etc", "/probe"}
	for _, order := range []string{"lllllll", "plplplp", "lplplpl"} {
		t.Run(order, func(t *testing.T) {
			eachMount(t, func(t *testing.T, mount string) {
				reg := registry(t)
				n := nodeWith(t, stack.NodeOptions{Daemon: remapping(mount)})
				c := lazily(stack.Container{Ref: upload(t, reg, mix(t, order, plain, lazy), "test/odd:mixed")})
				pull(t, n, c)
				want := walkAs(t, n, c, dirs...)
				before := len(fewMounts(t, n))
				c.Flags = inUserNamespace
				sameTree(t, walkAs(t, n, c, dirs...), mapped(want))
				keep(t, n, c)
				if after := len(fewMounts(t, n)); after != before {
					t.Errorf("%d layers are mounted, %d before the containers in user namespaces", after, before)
				}
				n.KillDaemon()
				if err := n.RestartDaemon(t.Context()); err != nil {
					t.Fatal(err)
				}
				startAgain(t, n)
			})
		})
	}
}

// keep runs a container that stays, stopped.
func keep(t *testing.T, n *stack.Node, c stack.Container) {
	t.Helper()
	before := usages(t, n, "default")
	args := append(append([]string{"run", "--snapshotter", c.Snapshotter}, c.Flags...), c.Ref, "kept")
	if out, err := n.Ctr(t.Context(), args...); err != nil || out != hello {
		t.Fatalf("%q, %v", out, err)
	}
	wroteLittle(t, n, "default", before)
}

// wroteLittle checks that containers were started without copying: the snapshots that are new since before, those that containerd
// would copy an image into among them, take less than 1 MiB together.
func wroteLittle(t *testing.T, n *stack.Node, namespace string, before map[string]int64) {
	t.Helper()
	sum, count := int64(0), 0
	for key, size := range usages(t, n, namespace) {
		if _, old := before[key]; !old {
			sum += size
			count++
		}
	}
	if count == 0 || sum >= 1<<20 {
		t.Errorf("%d bytes in %d new snapshots", sum, count)
	}
	t.Logf("%d bytes in %d new snapshots", sum, count)
}

// usages are the bytes of all snapshots.
func usages(t *testing.T, n *stack.Node, namespace string) map[string]int64 {
	t.Helper()
	out, err := n.Ctr(t.Context(), "-n", namespace, "snapshots", "--snapshotter", "sluice", "usage", "-b")
	if err != nil {
		t.Fatal(err)
	}
	sizes := make(map[string]int64)
	for i, line := range strings.Split(strings.TrimSpace(out), "\n") { // a heading, then key, size, inodes
		fields := strings.Fields(line)
		if i == 0 {
			continue
		}
		if len(fields) != 3 {
			t.Fatalf("usage: %q", out)
		}
		if sizes[fields[0]], err = strconv.ParseInt(fields[1], 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return sizes
}

// startAgain starts the container that keep left.
func startAgain(t *testing.T, n *stack.Node) {
	t.Helper()
	for _, args := range [][]string{{"task", "rm", "kept"}, {"task", "start", "kept"}, {"container", "rm", "kept"}} {
		out, err := n.Ctr(t.Context(), args...)
		if args[1] == "start" && (err != nil || out != hello) {
			t.Errorf("started again: %q, %v", out, err)
		}
	}
}

// mapped is the tree as a container in a user namespace has to see it.
func mapped(tree map[string]entry) map[string]entry {
	const nobody = 65_534
	tree = maps.Clone(tree)
	for path, e := range tree {
		if e.UID >= idCount {
			e.UID = nobody
		}
		if e.GID >= idCount {
			e.GID = nobody
		}
		tree[path] = e
	}
	return tree
}

// fewMounts checks that no layer is mounted more often than there are ways: over FUSE, and natively once it is complete.
func fewMounts(t *testing.T, n *stack.Node) map[string]int {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	layers := make(map[string]int)
	for _, l := range s.Layers {
		if layers[l.Digest] = l.Mounts; l.Mounts > 2 {
			t.Errorf("layer %+v", l)
		}
	}
	return layers
}

// TestUserNamespaceCopied has no capability in containerd's configuration, so that containerd copies the image.
func TestUserNamespaceCopied(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		// Not odd: containerd does not copy an image with ids that the user namespace lacks.
		small := lazyImage(t, newSubject(images.Pause, "pause", "/probe"))
		c := lazily(stack.Container{Ref: upload(t, reg, small, "test/pause:esgz")})
		pull(t, n, c)
		c.Flags = inUserNamespace
		belongsToRoot(t, walkAs(t, n, c, "/etc", "/probe"))
	})
}

// TestUserNamespacePod runs a pod with a user namespace, as the kubelet has it.
func TestUserNamespacePod(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
		pauseRef := upload(t, reg, pause(t), "pause:latest")
		n := nodeWith(t, stack.NodeOptions{Daemon: remapping(mount), PauseImage: pauseRef})
		if err := n.AddNetwork(); err != nil {
			t.Fatal(err)
		}
		c, err := n.CRI(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.WithoutCancel(t.Context()))
		for _, ref := range []string{ref, pauseRef} {
			if err := c.Pull(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
		}
		before := usages(t, n, "k8s.io")
		user := stack.UserNamespace{First: firstID, Ended: func(string) { wroteLittle(t, n, "k8s.io", before) }}
		out, err := c.RunUserPod(t.Context(), user, ref, "read", "/proc/self/uid_map")
		if want := []string{"0", fmt.Sprint(firstID), fmt.Sprint(idCount)}; err != nil || !slices.Equal(strings.Fields(out), want) {
			t.Errorf("ids are %q, %v, want %v", out, err, want)
		}
		out, err = c.RunUserPod(t.Context(), user, ref, "walk", "-data", "/etc", "/probe")
		if err != nil {
			t.Fatal(err)
		}
		belongsToRoot(t, parseTree(t, out))
	})
}

func belongsToRoot(t *testing.T, tree map[string]entry) {
	t.Helper()
	for path, e := range tree {
		if e.UID != 0 || e.GID != 0 {
			t.Errorf("%s belongs to %d:%d", path, e.UID, e.GID)
		}
	}
	if len(tree) == 0 {
		t.Error("nothing was seen")
	}
}

// TestManyLayers runs an image of as many layers as images have, with a user namespace and without.
func TestManyLayers(t *testing.T) {
	many := newSubject(func(ctx context.Context) (*images.Image, error) { return images.Layers(ctx, 126) }, "layers-126", "/probe")
	plain, lazy := plainImage(t, many), lazyImage(t, many)
	for _, order := range []string{strings.Repeat("l", 128), strings.Repeat("lp", 64)} {
		t.Run(order[:2], func(t *testing.T) {
			eachMount(t, func(t *testing.T, mount string) {
				reg := registry(t)
				n := nodeWith(t, stack.NodeOptions{Daemon: remapping(mount)})
				c := stack.Container{Ref: upload(t, reg, mix(t, order, plain, lazy), "test/layers:mixed")}
				pull(t, n, c)
				for _, flags := range [][]string{nil, inUserNamespace} {
					c.Flags = flags
					if out := run(t, n, c); out != images.SampleLine+"\n" {
						t.Errorf("with %v: %q", flags, out)
					}
				}
			})
		})
	}
}
