package images

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// GorootMinimum is the least compressed bytes that make Goroot a fair subject of measurement.
const GorootMinimum = 60_000_000

// hello is a program for "go run" inside the image.
const hello = "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"hello from go\") }\n"

// Goroot makes an image of the Go toolchain that builds this project: some 15,000 real files in five layers. Its command is
// "/usr/local/go/bin/go version"; /hello/hello.go and /probe are there as well.
func Goroot(ctx context.Context) (*Image, error) {
	root, version, err := toolchain(ctx)
	if err != nil {
		return nil, fmt.Errorf("image of GOROOT: %w", err)
	}
	rest, err := restOf(root)
	if err != nil {
		return nil, fmt.Errorf("image of GOROOT: %w", err)
	}
	program, err := probe(ctx)
	if err != nil {
		return nil, err
	}
	im, err := recipe{
		name: "goroot",
		key:  keyOf(gorootSources, version, root, string(program)),
		layers: []layer{
			base(),
			fromDir(root, "usr/local/go", "pkg"),
			fromDir(root, "usr/local/go", "src"),
			fromDir(root, "usr/local/go", rest...),
			entries(func(ctx context.Context, w *tar.Writer) error {
				return errors.Join(parents(w, "hello"), addTexts(w, 0o644, "hello/hello.go", hello), withProbe(program)(ctx, w))
			}),
		},
		config: ocispec.ImageConfig{
			Cmd: []string{"/usr/local/go/bin/go", "version"},
			Env: []string{
				"PATH=/usr/local/go/bin:/", "GOROOT=/usr/local/go", "GOTOOLCHAIN=local", "HOME=/root", "GOTELEMETRY=off",
			},
		},
	}.make(ctx)
	if err == nil && im.Size() < GorootMinimum {
		err = fmt.Errorf("image of GOROOT %s has %d bytes compressed, want at least %d", root, im.Size(), GorootMinimum)
	}
	return im, err
}

// toolchain returns the GOROOT and the version of the go command on the PATH.
func toolchain(ctx context.Context) (root, version string, err error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return "", "", fmt.Errorf("go env: %w", err)
	}
	lines := strings.Split(string(bytes.TrimSpace(out)), "\n")
	if len(lines) != 2 {
		return "", "", fmt.Errorf("go env: %q", out)
	}
	root, version = lines[0], lines[1]
	f, err := elf.Open(filepath.Join(root, "bin", "go"))
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", "", fmt.Errorf("%s/bin/go needs shared libraries; use the toolchain from go.dev", root)
		}
	}
	return root, version, nil
}

// restOf lists what lies in root besides the folders that have layers of their own.
func restOf(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "pkg" && e.Name() != "src" {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
