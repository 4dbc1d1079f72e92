package images

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// layer becomes one layer of an image.
type layer interface {
	// write adds the blob to the layout dir.
	write(ctx context.Context, dir string) (written, error)
}

// written is a layer as it lies in a layout.
type written struct {
	blob   ocispec.Descriptor
	diffID digest.Digest
}

// entries is a layer that a function writes entry by entry. It is compressed as docker build and most registries' images are.
type entries func(ctx context.Context, w *tar.Writer) error

func (e entries) write(ctx context.Context, dir string) (written, error) {
	return writeLayer(ctx, dir, e, 6)
}

// incompressible is like entries, for content on which gzip's time would be wasted.
type incompressible func(ctx context.Context, w *tar.Writer) error

func (e incompressible) write(ctx context.Context, dir string) (written, error) {
	return writeLayer(ctx, dir, entries(e), gzip.NoCompression)
}

// reused is the lowest layer of another image: the same blob, not another copy of it where links are possible.
type reused struct{ from *Image }

func (r reused) write(_ context.Context, dir string) (written, error) {
	var config ocispec.Image
	if err := readJSON(r.from.blob(r.from.Manifest.Config.Digest), &config); err != nil {
		return written{}, fmt.Errorf("layer of %s: %w", r.from.Dir, err)
	}
	l := written{blob: r.from.Manifest.Layers[0], diffID: config.RootFS.DiffIDs[0]}
	return l, os.Link(r.from.blob(l.blob.Digest), blobPath(dir, l.blob.Digest))
}

// writeLayers makes all layers the blobs of a layout, as many at once as there are processors.
func writeLayers(ctx context.Context, dir string, layers []layer) ([]ocispec.Descriptor, []digest.Digest, error) {
	descs, diffIDs := make([]ocispec.Descriptor, len(layers)), make([]digest.Digest, len(layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range layers {
		g.Go(func() error {
			done, err := l.write(ctx, dir)
			descs[i], diffIDs[i] = done.blob, done.diffID
			return err
		})
	}
	return descs, diffIDs, g.Wait()
}

func writeLayer(ctx context.Context, dir string, fill entries, level int) (l written, err error) {
	f, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	blob, content := sha256.New(), sha256.New()
	size := &counter{}
	zw, err := gzip.NewWriterLevel(io.MultiWriter(f, blob, size), level)
	if err != nil {
		return l, err
	}
	tw := tar.NewWriter(io.MultiWriter(zw, content))
	if err := fill(ctx, tw); err != nil {
		return l, err
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		return l, err
	}
	l.blob = ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip,
		Digest:    digest.NewDigest(digest.SHA256, blob),
		Size:      size.n,
	}
	l.diffID = digest.NewDigest(digest.SHA256, content)
	return l, os.Rename(f.Name(), blobPath(dir, l.blob.Digest))
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// fromDir makes a layer of root/name... and everything below, in lexical order, as "prefix/name" and owned by root.
func fromDir(root, prefix string, names ...string) entries {
	return func(ctx context.Context, w *tar.Writer) error {
		if err := parents(w, prefix); err != nil {
			return err
		}
		for _, name := range names {
			err := filepath.Walk(filepath.Join(root, name), func(path string, info os.FileInfo, err error) error {
				if err != nil {
					return err
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				rel, err := filepath.Rel(root, path)
				if err != nil {
					return err
				}
				return addFile(w, path, filepath.Join(prefix, rel), info)
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// addFile copies one file, folder or symbolic link.
func addFile(w *tar.Writer, path, name string, info os.FileInfo) error {
	target := ""
	if info.Mode()&os.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Uid, h.Gid, h.Uname, h.Gname = name, 0, 0, "", ""
	if info.IsDir() {
		h.Name += "/"
	}
	if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}

// parents adds the folders that lead to dir, and dir, "" for none.
func parents(w *tar.Writer, dir string) error {
	if dir == "" || dir == "." {
		return nil
	}
	if err := parents(w, filepath.Dir(dir)); err != nil {
		return err
	}
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: epoch})
}
