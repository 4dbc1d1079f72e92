package toc

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// packed is a TOC as compressed, wherever it lies.
type packed struct {
	format Format
	want   digest.Digest
	from   io.ReadSeeker // at its beginning
}

func (r *Raw) parse(take func(*estargz.TOCEntry) error) error {
	return packed{r.Format, r.want, bytes.NewReader(r.compressed)}.parse(take)
}

// parse decompresses, hashes and decodes a TOC in one pass, and gives each entry to take, which must copy what it keeps
// of it. Whatever the decoder says and take has made of it counts for nothing unless the digest of all that was
// decompressed is right, or, for zstd:chunked, of all that was compressed: then the error is a *DigestError.
func (p packed) parse(take func(*estargz.TOCEntry) error) error {
	stream, err := p.format.NewReader(p.from)
	if err != nil {
		return fmt.Errorf("decompress TOC: %w", err)
	}
	defer stream.Close()
	json, err := p.format.tocJSON(stream)
	if err != nil {
		return fmt.Errorf("decompress TOC: %w", err)
	}
	hash := sha256.New()
	hashed := io.TeeReader(&limited{r: json, left: MaxTOCSize}, hash)
	var refused error
	decodeErr := decodeEntries(bufio.NewReaderSize(hashed, 64<<10), func(e *estargz.TOCEntry) error {
		refused = take(e)
		return refused
	})
	if _, err := io.Copy(io.Discard, hashed); err != nil {
		return fmt.Errorf("decompress TOC: %w", err)
	}
	if got := digest.NewDigest(digest.SHA256, hash); got != p.want && !p.wanted() {
		return &DigestError{Got: got, Want: p.want}
	}
	if refused == nil && decodeErr != nil {
		return fmt.Errorf("decode TOC: %w", decodeErr)
	}
	return refused
}

// wanted says whether the digest that is wanted is that of the TOC as compressed.
func (p packed) wanted() bool {
	if p.format != ZstdChunked {
		return false
	}
	if _, err := p.from.Seek(0, io.SeekStart); err != nil {
		return false
	}
	got, err := digest.FromReader(p.from)
	return err == nil && got == p.want
}

// tocJSON finds the TOC's JSON in its decompressed stream: eStargz has it as the only file of a tar.
func (f Format) tocJSON(stream io.Reader) (io.Reader, error) {
	if f != EStargz {
		return stream, nil
	}
	tr := tar.NewReader(stream)
	h, err := tr.Next()
	if err != nil {
		return nil, fmt.Errorf("tar header: %w", err)
	}
	if h.Name != estargz.TOCTarName {
		return nil, fmt.Errorf("tar holds %s instead of %s", quote(h.Name), estargz.TOCTarName)
	}
	return tr, nil
}

// limited gives an error, not an end, after left bytes.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1] // one more, to tell an end from too much
	}
	n, err := l.r.Read(p)
	if int64(n) > l.left {
		return 0, fmt.Errorf("more than %d bytes", MaxTOCSize)
	}
	l.left -= int64(n)
	return n, err
}
