package integration

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

var (
	posix   = newSubject(images.Posix, "posix", "/check")
	extreme = newSubject(images.Extreme, "extreme", "/check")
)

// TestPosix does in a container what programs do with files besides reading them (integration/images/check says what), as on overlayfs.
func TestPosix(t *testing.T) {
	reg := registry(t)
	n := nodeWith(t, stack.NodeOptions{})
	c := stack.Container{Ref: upload(t, reg, plainImage(t, posix), "test/posix:plain"), Flags: []string{"--allow-new-privs"}}
	if err := n.Pull(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	want, err := n.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(want, "\nsocket: to the socket\n") {
		t.Errorf("on overlayfs it prints %q", want)
	}
	eachState(t, posix, func(t *testing.T, n *stack.Node, c stack.Container) {
		c.Flags = []string{"--allow-new-privs"}
		if got := run(t, n, c); got != want {
			t.Errorf("it prints\n%son overlayfs\n%s", got, want)
		}
	})
}

// TestExtreme has what ext4 has not, so that the container's view is compared with what went into the image.
func TestExtreme(t *testing.T) {
	xattrs := images.ExtremeXattrs()
	paths := slices.Sorted(maps.Keys(xattrs))
	values := ""
	for _, path := range paths {
		values += fmt.Sprintf("%s %d %x\n", path, len(xattrs[path]), sha256.Sum256(xattrs[path]))
	}
	eachState(t, extreme, func(t *testing.T, n *stack.Node, c stack.Container) {
		c.Args = append([]string{"/check", "xattr", images.ExtremeXattr}, paths...)
		if got := run(t, n, c); got != values {
			t.Errorf("xattrs are\n%swant\n%s", got, values)
		}
		c.Args = []string{"/check", "crowd", images.CrowdDir, fmt.Sprint(images.Crowd)}
		if got, want := run(t, n, c), fmt.Sprintln(images.Crowd, "entries are right"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestHuge reads here and there in a file of more than 4 GiB, and not much more of it than that is put on the disk. Complete
// layers would take 4 GiB and half a minute: they have a test in package fs.
func TestHuge(t *testing.T) {
	im := must(t, func() (*images.Image, error) { return images.Huge(t.Context()) })
	marks := images.HugeMarks()
	args, want := []string{"/check", "at", images.HugeFile}, fmt.Sprintln(images.HugeBytes, "bytes")
	for _, off := range slices.Sorted(maps.Keys(marks)) {
		args = append(args, fmt.Sprint(off))
		want += fmt.Sprintf("%d %q\n", off, marks[off])
	}
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		c := stack.Container{Ref: upload(t, reg, im, "test/huge:esgz"), Args: args}
		pull(t, n, c)
		if got := run(t, n, c); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		s, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Cache.Bytes > images.HugeBytes/8 { // a few windows of what is fetched ahead
			t.Errorf("%d bytes on disk", s.Cache.Bytes)
		}
	})
}

// eachState runs a test with a subject that was pulled, under every way of mounting: while its layers are lazy, and with layers that were
// complete before any container was made.
func eachState(t *testing.T, s subject, test func(t *testing.T, n *stack.Node, c stack.Container)) {
	eachMount(t, func(t *testing.T, mount string) {
		for _, background := range []bool{false, true} {
			t.Run(map[bool]string{false: "lazy", true: "complete"}[background], func(t *testing.T) {
				reg := registry(t)
				o := daemon(mount)
				o.TOML = strings.Replace(o.TOML, "background = false", fmt.Sprintf("background = %t", background), 1)
				n := nodeWith(t, stack.NodeOptions{Daemon: o})
				c := stack.Container{Ref: upload(t, reg, lazyImage(t, s), "test/image:lazy")}
				pull(t, n, c)
				if background {
					untilComplete(t, n)
				}
				test(t, n, c)
			})
		}
	})
}

// untilComplete waits until all of every layer is on disk, and mounted as complete ones are.
func untilComplete(t *testing.T, n *stack.Node) {
	t.Helper()
	completeWithin(t, n, time.Minute)
}

func completeWithin(t *testing.T, n *stack.Node, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := n.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		lazy := 0
		for _, l := range s.Layers {
			if l.State != "complete" || l.Mount == "erofs-fuse" {
				lazy++
			}
		}
		if lazy == 0 && len(s.Layers) > 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d layers are not complete after %s: %+v", lazy, limit, s.Layers)
		}
	}
}
