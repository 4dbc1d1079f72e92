package workload

import (
	"context"

	"github.com/sluice-snapshotter/sluice/integration/images"
)

// Images of interpreters name them as their commands, as their publishers' do. Others have no commands of their own, so that a change of a program here is none of its
// image.

func debian(o images.DebianOptions) func(context.Context) (*images.Image, error) {
	return func(ctx context.Context) (*images.Image, error) { return images.Debian(ctx, o) }
}

// shell runs a script that ends at the first error.
func shell(script string) []string { return []string{"/bin/sh", "-ec", script} }

// says is a workload that is ready when it has done everything, and says so in one line.
func says(w Workload, line string) Workload {
	w.Ready, w.Output = line, line+"\n"
	return w
}

func python() Workload {
	return says(Workload{
		Name:  "python",
		Image: debian(images.DebianOptions{Name: "bench-python", Packages: [][]string{{"python3-minimal"}, {"python3"}}, Cmd: []string{"python3"}}),
		Args:  []string{"/usr/bin/python3", "-c", "print('hello')"},
	}, "hello")
}

func gcc() Workload {
	return says(Workload{
		Name: "gcc",
		Image: debian(images.DebianOptions{
			Name: "bench-gcc", Packages: [][]string{{"binutils"}, {"gcc"}, {"libc6-dev"}},
			Script: `mkdir /hello; cat >/hello/hello.c <<'.'
#include <stdio.h>

int main(void) { return printf("hello\n") < 0; }
.
`,
		}),
		Args: shell("gcc -O2 -o /tmp/hello /hello/hello.c; exec /tmp/hello"),
	}, "hello")
}

func node() Workload {
	return says(Workload{
		Name:  "node",
		Image: debian(images.DebianOptions{Name: "bench-node", Packages: [][]string{{"ca-certificates"}, {"nodejs"}}, Cmd: []string{"node"}}),
		Args:  []string{"/usr/bin/node", "-e", "console.log('hello')"},
	}, "hello")
}

// imagemagick prints a checksum of the pixels, which are not the same with every version.
func imagemagick() Workload {
	return Workload{
		Name: "imagemagick",
		Image: debian(images.DebianOptions{
			Name: "bench-imagemagick", Packages: [][]string{{"fontconfig-config"}, {"imagemagick"}},
			Script: "mkdir /pictures; convert -seed 1 -size 1024x768 plasma:tomato-steelblue -quality 95 /pictures/plasma.jpg",
		}),
		Args: shell("convert /pictures/plasma.jpg -colorspace Gray /tmp/gray.png; exec identify -format '%w %[colorspace] %#\n' /tmp/gray.png"),
	}
}

// torch has a layer for each step of what it is built on, as the images of its publisher have.
func torch() Workload {
	return says(Workload{
		Name: "torch",
		Image: debian(images.DebianOptions{
			Name:     "bench-torch",
			Packages: [][]string{{"python3"}, {"python3-numpy", "python3-sympy"}, {"python3-opencv"}, {"python3-torch"}},
			Cmd:      []string{"python3"},
		}),
		Args: []string{"/usr/bin/python3", "-c", "import torch; print(torch.ones(3).sum())"},
		ML:   true,
	}, "tensor(3.)")
}
