package converter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/pack"
)

// spooled is a layer's tar, uncompressed and normalised, in an unnamed temporary file.
type spooled struct {
	tar  *pack.Tar
	file *os.File
}

// spool fetches a layer, checks blob and tar against their digests, and writes the tar to a temporary file, ready to be packed.
func (c *conversion) spool(ctx context.Context, l *layer) (_ *spooled, retErr error) {
	rc, err := c.src.Fetch(ctx, l.source)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	defer rc.Close()
	file, err := tempFile()
	if err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			file.Close()
		}
	}()
	blob := io.TeeReader(endpoint.Verify(ctx, rc, l.source), &counter{c: c, l: l, stage: Fetching, total: l.source.Size})
	plain, err := decompress(blob)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	defer plain.Close()
	hash := l.sourceDiffID.Algorithm().Digester()
	out := bufio.NewWriterSize(file, 1<<20)
	tar, err := pack.Normalise(out, io.TeeReader(plain, hash.Hash()))
	if err == nil {
		err = out.Flush()
	}
	// What the decompressor did not need still counts for the digest.
	if _, derr := io.Copy(io.Discard, blob); derr != nil {
		err = derr
	}
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	if got := hash.Digest(); got != l.sourceDiffID {
		return nil, fmt.Errorf("fetch: uncompressed content is %s, the image's configuration says %s", got, l.sourceDiffID)
	}
	return &spooled{tar, file}, nil
}

// decompress looks at the first bytes, as containerd does: media types are not always true.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 1<<20)
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b, 0x08}):
		return gzip.NewReader(br)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

// tempFile is a temporary file without a name: it is gone when it is closed, or when the process is.
func tempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "sluice-convert-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
