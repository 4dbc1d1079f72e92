package integration

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestDebian runs programs of real packages, with their shared libraries, and compares the whole tree with overlayfs's. The larger
// ones only with SLUICE_TEST_ALL, which "make test-all" sets.
func TestDebian(t *testing.T) {
	for _, c := range []struct {
		images.DebianOptions
		prefetch, output string
		large            bool
	}{
		{
			DebianOptions: images.DebianOptions{
				Name: "python", Packages: [][]string{{"python3-minimal"}, {"libcap2-bin", "iputils-ping"}},
				Cmd: []string{"/usr/bin/python3", "-c", "print(6*7)"},
			},
			prefetch: "/usr/bin/python3", output: "42\n",
		},
		{
			DebianOptions: images.DebianOptions{
				Name: "gcc", Packages: [][]string{{"gcc", "libc6-dev"}},
				Cmd: []string{"/bin/sh", "-c", "echo 'int puts(const char*); int main() { return puts(\"42\") < 0; }' >/tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a"},
			},
			prefetch: "/usr/bin/x86_64-linux-gnu-gcc-*", output: "42\n", large: true,
		},
		{
			DebianOptions: images.DebianOptions{
				Name: "imagemagick", Packages: [][]string{{"imagemagick"}},
				Cmd: []string{"/bin/sh", "-c", "convert -size 8x8 xc:red -colorspace Gray -format '%w %[colorspace]\n' info:"},
			},
			prefetch: "/usr/bin/convert-*", output: "8 Gray\n", large: true,
		},
	} {
		t.Run(c.Name, func(t *testing.T) {
			if c.large && os.Getenv("SLUICE_TEST_ALL") == "" {
				t.Skip("large: run by make test-all")
			}
			debian(t, debianSubject(t, c.DebianOptions, c.prefetch), c.output)
		})
	}
}

// debianSubject makes the image, or skips the test where that is not possible.
func debianSubject(t *testing.T, o images.DebianOptions, prefetch string) subject {
	t.Helper()
	_, err := images.Debian(t.Context(), o)
	if unavailable := (*images.UnavailableError)(nil); errors.As(err, &unavailable) {
		t.Skip(unavailable)
	}
	if err != nil {
		t.Fatal(err)
	}
	return newSubject(func(ctx context.Context) (*images.Image, error) { return images.Debian(ctx, o) }, o.Name, prefetch)
}

func debian(t *testing.T, s subject, output string) {
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		im := lazyImage(t, s)
		plain := stack.Container{Ref: upload(t, reg, plainImage(t, s), "test/debian:plain")}
		lazy := lazily(stack.Container{Ref: upload(t, reg, im, "test/debian:esgz")})
		reg.Link.ResetCounts()
		pull(t, n, lazy)
		if out := run(t, n, lazy); out != output {
			t.Errorf("it prints %q, want %q", out, output)
		}
		if got := reg.Link.Counts().Total(); got.Bytes > im.Size()/3 {
			t.Errorf("%+v at the link, of %d bytes", got, im.Size())
		}
		if err := n.Pull(t.Context(), plain); err != nil {
			t.Fatal(err)
		}
		dirs := []string{"/bin", "/usr", "/var", "/lib", "/opt", "/srv", "/probe"}
		sameTree(t, walk(t, n, lazy, dirs...), walk(t, n, plain, dirs...))
	})
}
