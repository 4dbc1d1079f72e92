package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/checkout"
)

// epoch is the time of whatever has none of its own.
var epoch = time.Unix(1_600_000_000, 0)

// base makes the lowest layer of an image that is made from nothing: what runc mounts on, and who is who.
func base() entries {
	return func(_ context.Context, w *tar.Writer) error {
		for _, d := range []struct {
			name string
			mode int64
		}{
			{"dev/", 0o755}, {"etc/", 0o755}, {"proc/", 0o555}, {"root/", 0o700}, {"run/", 0o755}, {"sys/", 0o555}, {"tmp/", 0o1777},
		} {
			h := &tar.Header{Typeflag: tar.TypeDir, Name: d.name, Mode: d.mode, ModTime: epoch}
			if err := w.WriteHeader(h); err != nil {
				return err
			}
		}
		return addTexts(w, 0o644, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
			"etc/group", "root:x:0:\nnogroup:x:65534:\n", "etc/hosts", "127.0.0.1 localhost\n")
	}
}

// addTexts adds files given as name, content, name, content.
func addTexts(w *tar.Writer, mode int64, pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Mode: mode, Size: int64(len(pairs[i+1])), ModTime: epoch}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write([]byte(pairs[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// probe builds the program for inside the images and returns its bytes, the same for the same sources and Go version.
func probe(ctx context.Context) (_ []byte, err error) {
	dir, err := checkout.Cache("images")
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "probe")
	unlock, err := checkout.Lock(out + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	err = checkout.Build{
		Packages: []string{"./integration/images/probe"},
		Out:      out,
		Flags:    []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid="},
		Env:      []string{"CGO_ENABLED=0", "GOOS=linux", "GOFLAGS="},
	}.Run(ctx)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// withProbe makes a layer of the program alone, as /probe.
func withProbe(program []byte) entries {
	return func(_ context.Context, w *tar.Writer) error {
		return addTexts(w, 0o755, "probe", string(program))
	}
}

// Pause makes the image of a pod's sandbox: a process that waits for a signal.
func Pause(ctx context.Context) (*Image, error) {
	program, err := probe(ctx)
	if err != nil {
		return nil, err
	}
	return recipe{
		name:   "pause",
		key:    keyOf(sources, string(program)),
		layers: []layer{base(), withProbe(program)},
		config: ocispec.ImageConfig{Entrypoint: []string{"/probe", "pause"}, Env: []string{"PATH=/"}},
	}.make(ctx)
}

// keyOf hashes files and strings into the part of a cache name that changes when they do.
func keyOf(files fs.FS, parts ...string) string {
	h := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		p, err := fs.ReadFile(files, path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(p), p)
		return err
	})
	if err != nil {
		panic(err) // files is embedded in the program
	}
	for _, p := range parts {
		fmt.Fprintf(h, "%d\n%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
