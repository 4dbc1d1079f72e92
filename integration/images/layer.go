package images

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// layer writes the entries of one layer.
type layer func(ctx context.Context, w *tar.Writer) error

// gzipLevel is what docker build and most registries' images have.
const gzipLevel = 6

// writeLayers compresses all layers into the blobs of a layout, as many at once as there are processors.
func writeLayers(ctx context.Context, dir string, layers []layer) ([]ocispec.Descriptor, []digest.Digest, error) {
	descs, diffIDs := make([]ocispec.Descriptor, len(layers)), make([]digest.Digest, len(layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range layers {
		g.Go(func() (err error) {
			descs[i], diffIDs[i], err = writeLayer(ctx, dir, l)
			return err
		})
	}
	return descs, diffIDs, g.Wait()
}

func writeLayer(ctx context.Context, dir string, l layer) (desc ocispec.Descriptor, diffID digest.Digest, err error) {
	f, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return desc, "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	blob, content := sha256.New(), sha256.New()
	size := &counter{}
	zw, err := gzip.NewWriterLevel(io.MultiWriter(f, blob, size), gzipLevel)
	if err != nil {
		return desc, "", err
	}
	tw := tar.NewWriter(io.MultiWriter(zw, content))
	if err := l(ctx, tw); err != nil {
		return desc, "", err
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		return desc, "", err
	}
	desc = ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip,
		Digest:    digest.NewDigest(digest.SHA256, blob),
		Size:      size.n,
	}
	return desc, digest.NewDigest(digest.SHA256, content), os.Rename(f.Name(), blobPath(dir, desc.Digest))
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// fromDir makes a layer of root/name... and everything below, in lexical order, as "prefix/name" and owned by root.
func fromDir(root, prefix string, names ...string) layer {
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
