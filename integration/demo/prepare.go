package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// pair is one image in the two forms that are compared, in the private registry.
type pair struct {
	name        string // for people
	plain, lazy string // references
}

// system is a snapshotter and the image that it starts from.
type system struct {
	name string // of the snapshotter
	ref  string
}

func (p pair) systems() []system {
	return []system{{"overlayfs", p.plain}, {"sluice", p.lazy}}
}

// prepare puts the ordinary image and the converted one into the registry.
func prepare(ctx context.Context, reg *stack.Registry, s settings) (pair, error) {
	p := pair{plain: reg.Ref("demo/image:plain"), lazy: reg.Ref("demo/image:esgz")}
	prefetch := ""
	if s.image != "" {
		p.name = s.image
		progress("copying %s", s.image)
		if err := mirror(ctx, s.image, p.plain); err != nil {
			return p, err
		}
	} else {
		progress("making an image of the Go toolchain, unless it is there")
		im, err := images.Goroot(ctx)
		if err != nil {
			return p, err
		}
		p.name = fmt.Sprintf("%s as an image of %d layers, %.1f MB compressed", runtime.Version(), len(im.Manifest.Layers), mb(im.Size()))
		if err := im.Push(ctx, p.plain); err != nil {
			return p, err
		}
		prefetch = "/usr/local/go/bin/go"
	}
	progress("converting it with ctr-remote")
	args, err := convertArgs(prefetch)
	if err != nil {
		return p, err
	}
	_, err = stack.CtrRemote(ctx, append(args, p.plain, p.lazy)...)
	return p, err
}

// convertArgs writes the prefetch list, if there is one, to a file.
func convertArgs(prefetch string) ([]string, error) {
	args := []string{"image", "convert"}
	if prefetch == "" {
		return args, nil
	}
	list := filepath.Join(os.TempDir(), "prefetch.list")
	return append(args, "--fail-on-missing", "--prefetch-list", list), os.WriteFile(list, []byte(prefetch+"\n"), 0o644)
}

// mirror copies an image from its registry into the private one.
func mirror(ctx context.Context, from, to string) (err error) {
	n, err := stack.StartNode(ctx, stack.NodeOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if _, err := n.Ctr(ctx, "image", "pull", "--local", from); err != nil {
		return err
	}
	platform := "linux/" + runtime.GOARCH
	_, err = n.Ctr(ctx, "image", "push", "--local", "--plain-http", "--platform", platform, to, from)
	return err
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }
