package converter

import (
	"compress/gzip"
	"hash"
	"io"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// levels are the compression levels of a format.
type levels struct{ least, most, standard int }

// levelsOf has every format that can be written. The standard levels are those of stargz-snapshotter's ctr-remote.
var levelsOf = map[toc.Format]levels{
	toc.EStargz:     {gzip.NoCompression, gzip.BestCompression, gzip.BestCompression},
	toc.ZstdChunked: {1, 22, 3},
}

// compression is estargz's own but for gzip.go, with times of modification to the nanosecond in the TOC. estargz rounds them to seconds,
// which the tar entries are not; RFC 3339 has fractions, and readers take them.
type compression struct {
	estargz.Compressor
	estargz.Decompressor
	times map[string]time.Time // by clean name, where they are not whole seconds
	// annotations are the format's, beside those of every lazy layer; they are there once the TOC is written.
	annotations map[string]string
}

// newCompression returns one for a single layer. The options are valid.
func newCompression(o Options, times map[string]time.Time) *compression {
	level := levelsOf[o.format()].standard
	if o.CompressionLevel != nil {
		level = *o.CompressionLevel
	}
	c := &compression{times: times}
	if o.format() == toc.ZstdChunked {
		c.annotations = make(map[string]string)
		// The encoder gives the same bytes at any concurrency, which is the number of cores; TestSameDigestsEverywhere holds it to that.
		c.Compressor = &zstdchunked.Compressor{CompressionLevel: zstd.EncoderLevelFromZstd(level), Metadata: c.annotations}
		c.Decompressor = new(zstdchunked.Decompressor)
		return c
	}
	c.Compressor, c.Decompressor = newGzipCompressor(level), new(estargz.GzipDecompressor)
	return c
}

func (c *compression) WriteTOCAndFooter(w io.Writer, off int64, t *estargz.JTOC, diffHash hash.Hash) (digest.Digest, error) {
	for _, e := range t.Entries {
		if at, ok := c.times[cleanName(e.Name)]; ok && e.ModTime3339 != "" {
			e.ModTime3339 = at.Format(time.RFC3339Nano)
		}
	}
	return c.Compressor.WriteTOCAndFooter(w, off, t, diffHash)
}
