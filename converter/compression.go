package converter

import (
	"compress/gzip"
	"hash"
	"io"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// compression is estargz's gzip, with times of modification to the nanosecond in the TOC. estargz rounds them to seconds,
// which the tar entries are not; RFC 3339 has fractions, and readers take them.
type compression struct {
	*estargz.GzipCompressor
	*estargz.GzipDecompressor
	times map[string]time.Time // by clean name, where they are not whole seconds
}

// newCompression returns one for a level of compress/gzip; nil means its best.
func newCompression(level *int, times map[string]time.Time) *compression {
	l := gzip.BestCompression
	if level != nil {
		l = *level
	}
	return &compression{estargz.NewGzipCompressorWithLevel(l), &estargz.GzipDecompressor{}, times}
}

func (c *compression) WriteTOCAndFooter(w io.Writer, off int64, t *estargz.JTOC, diffHash hash.Hash) (digest.Digest, error) {
	for _, e := range t.Entries {
		if at, ok := c.times[cleanName(e.Name)]; ok && e.ModTime3339 != "" {
			e.ModTime3339 = at.Format(time.RFC3339Nano)
		}
	}
	return c.GzipCompressor.WriteTOCAndFooter(w, off, t, diffHash)
}
