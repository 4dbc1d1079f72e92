package converter

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
)

// spooled is a layer's tar, uncompressed and normalised, in an unnamed temporary file.
type spooled struct {
	*entries
	file *os.File
	size int64
}

// spool fetches a layer, checks blob and tar against their digests, and writes the tar to a temporary file, in the
// form that estargz takes.
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
	seen, err := normalise(out, io.TeeReader(plain, hash.Hash()))
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
	size, err := file.Seek(0, io.SeekCurrent)
	return &spooled{seen, file, size}, err
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

// normalise rewrites a tar so that estargz takes it and nothing is lost by it: sparse files become ordinary ones,
// global headers, which containerd ignores as well, go, and so do the traces of an earlier conversion. r is read to its
// end.
func normalise(w io.Writer, r io.Reader) (*entries, error) {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	seen := newEntries()
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read tar: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader || ofFormat[cleanName(h.Name)] {
			continue
		}
		if err := seen.add(h); err != nil {
			return nil, err
		}
		dense(h)
		if err := tw.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("write tar entry %q: %w", h.Name, err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return nil, fmt.Errorf("copy tar entry %q: %w", h.Name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	_, err := io.Copy(io.Discard, r)
	return seen, err
}

// ofFormat are the files that eStargz itself adds to a tar. estargz drops them too, but not before they have had a say in
// where it cuts the tar, and converting twice should change nothing.
var ofFormat = map[string]bool{estargz.TOCTarName: true, estargz.PrefetchLandmark: true, estargz.NoPrefetchLandmark: true}

// dense makes a sparse file's header an ordinary one's; the reader fills its holes.
func dense(h *tar.Header) {
	if h.Typeflag == tar.TypeGNUSparse {
		h.Typeflag = tar.TypeReg
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			delete(h.PAXRecords, key)
		}
	}
}

// entries is what is to be known of the entries of a tar. Names are clean and without leading slash.
type entries struct {
	names   []string             // in order
	known   map[string]int64     // sizes
	linked  map[string]bool      // targets of hard links
	times   map[string]time.Time // of modification, where it is not a whole second
	content int64                // bytes of all files, each name's last
}

func newEntries() *entries {
	return &entries{known: map[string]int64{}, linked: map[string]bool{}, times: map[string]time.Time{}}
}

// add refuses the one thing that estargz, which keeps the last entry of a name only, would turn into another tree.
func (e *entries) add(h *tar.Header) error {
	name := cleanName(h.Name)
	before, known := e.known[name]
	if known && e.linked[name] {
		return fmt.Errorf("tar entry %q: replaces a file that hard links were made to", h.Name)
	}
	if h.Typeflag == tar.TypeLink {
		e.linked[cleanName(h.Linkname)] = true
	}
	if h.ModTime.Nanosecond() != 0 {
		e.times[name] = h.ModTime.UTC()
	} else {
		delete(e.times, name)
	}
	if !known {
		e.names = append(e.names, name)
	}
	e.known[name] = h.Size
	e.content += h.Size - before
	return nil
}

func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

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
