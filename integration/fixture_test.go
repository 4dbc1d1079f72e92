package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

func TestMain(m *testing.M) { os.Exit(stack.Isolate(m.Run)) }

// registry starts an empty registry that is gone after the test.
func registry(t *testing.T) *stack.Registry {
	t.Helper()
	reg, err := stack.StartRegistry(t.Context(), link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	return reg
}

// settings are the daemon's configuration in most tests. Without background fetching, the bytes at the link are those that something
// asked for.
const settings = `
mount = %q
[registry]
config_path = "$NODE/certs.d"
stall_timeout = "2s"
[fetch]
background = false
`

// node starts containerd with a Sluice daemon that mounts as told; it is gone after the test.
func node(t *testing.T, mount string) *stack.Node {
	return nodeWith(t, stack.NodeOptions{Daemon: daemon(mount)})
}

func daemon(mount string) *stack.DaemonOptions {
	return &stack.DaemonOptions{TOML: fmt.Sprintf(settings, mount)}
}

func pause(t *testing.T) *images.Image {
	return must(t, func() (*images.Image, error) { return images.Pause(t.Context()) })
}

func nodeWith(t *testing.T, o stack.NodeOptions) *stack.Node {
	t.Helper()
	n, err := stack.StartNode(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.Tail(40))
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// eachMount runs a test under every way of mounting that the daemon has.
func eachMount(t *testing.T, test func(t *testing.T, mount string)) {
	for _, mount := range []string{"auto", "loop", "fuse"} {
		t.Run(mount, func(t *testing.T) { test(t, mount) })
	}
}

// eachMountOfAll is eachMount with SLUICE_TEST_ALL, which "make test-all" sets; else only the way that this kernel chooses: for tests of
// what lies below all of them, and that take long.
func eachMountOfAll(t *testing.T, test func(t *testing.T, mount string)) {
	if os.Getenv("SLUICE_TEST_ALL") == "" {
		test(t, "auto")
		return
	}
	eachMount(t, test)
}

// upload pushes an image and returns its reference.
func upload(t *testing.T, reg *stack.Registry, im *images.Image, name string) string {
	t.Helper()
	ref, err := reg.Push(t.Context(), im, name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// subject is an image in its ordinary form and as ctr-remote converts it, made once for all tests.
type subject struct {
	plain func() (*images.Image, error)
	lazy  func() (*images.Image, error)
}

var (
	goroot = newSubject(images.Goroot, "goroot", "/usr/local/go/bin/go")
	odd    = newSubject(images.Odd, "odd", "/probe")
)

func newSubject(make func(context.Context) (*images.Image, error), name, prefetch string) subject {
	plain := sync.OnceValues(func() (*images.Image, error) { return make(context.Background()) })
	lazy := sync.OnceValues(func() (*images.Image, error) {
		im, err := plain()
		if err != nil {
			return nil, err
		}
		return convert(im, name, prefetch)
	})
	return subject{plain, lazy}
}

// convert makes an image lazy with one prefetched file, as a layout in this run's folder.
func convert(im *images.Image, name, prefetch string) (*images.Image, error) {
	dir := filepath.Join(os.TempDir(), name)
	list := dir + ".list"
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(list, []byte(prefetch+"\n"), 0o644)); err != nil {
		return nil, err
	}
	_, err := stack.CtrRemote(context.Background(), "image", "convert", "--prefetch-list", list, "--fail-on-missing", "--estargz-compression-level", "1",
		"oci:"+im.Dir+":latest", "oci:"+dir+":latest")
	if err != nil {
		return nil, err
	}
	return images.Open(dir)
}

// plainImage and lazyImage are a subject's forms.
func plainImage(t *testing.T, s subject) *images.Image { return must(t, s.plain) }
func lazyImage(t *testing.T, s subject) *images.Image  { return must(t, s.lazy) }

func must[T any](t *testing.T, get func() (T, error)) T {
	t.Helper()
	v, err := get()
	if err != nil {
		t.Fatal(err)
	}
	return v
}
