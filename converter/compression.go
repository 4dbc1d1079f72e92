package converter

import (
	"compress/gzip"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// levels are the compression levels of a format.
type levels struct{ least, most, standard int }

// levelsOf has every format that can be written. The standard levels are those of stargz-snapshotter's ctr-remote.
var levelsOf = map[toc.Format]levels{
	toc.EStargz:     {gzip.NoCompression, gzip.BestCompression, gzip.BestCompression},
	toc.ZstdChunked: {1, 22, 3},
}

// compressor returns one for a single layer, and the annotations of its format, beside those of every lazy layer; they are there once the
// TOC is written. The options are valid.
func (o Options) compressor() (estargz.Compressor, map[string]string) {
	level := levelsOf[o.format()].standard
	if o.CompressionLevel != nil {
		level = *o.CompressionLevel
	}
	if o.format() != toc.ZstdChunked {
		return newGzipCompressor(level), nil
	}
	annotations := make(map[string]string)
	// The encoder gives the same bytes at any concurrency, which is the number of cores; TestSameDigestsEverywhere holds it to that.
	return &zstdchunked.Compressor{CompressionLevel: zstd.EncoderLevelFromZstd(level), Metadata: annotations}, annotations
}
