package converter

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
