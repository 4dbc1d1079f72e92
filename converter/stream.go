package converter

import (
	"context"
	"io"
)

// cancelReader and cancelReaderAt end with their context. They are how cancellation reaches estargz.Build: its own
// option for that leaves temporary files behind when the moment is unlucky.
type cancelReader struct {
	ctx context.Context //nolint:containedctx // a reader has no other way to be cancelled
	io.Reader
}

func (r *cancelReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

type cancelReaderAt struct {
	ctx context.Context //nolint:containedctx // as above
	io.ReaderAt
}

func (r *cancelReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.ReaderAt.ReadAt(p, off)
}

// progress reports that a layer enters a stage, or that bytes of total have passed in it.
func (c *conversion) progress(l *layer, stage Stage, bytes, total int64) {
	if c.opts.Progress != nil {
		c.opts.Progress(Progress{Layer: l.source.Digest, Stage: stage, Bytes: bytes, Total: total})
	}
}

// counter reports the bytes that are written to it as progress of one stage.
type counter struct {
	c            *conversion
	l            *layer
	stage        Stage
	bytes, total int64
}

func (w *counter) Write(p []byte) (int, error) {
	w.bytes += int64(len(p))
	w.c.progress(w.l, w.stage, w.bytes, w.total)
	return len(p), nil
}
