package remote

import (
	"context"
	"io"
	"io/fs"
)

// A rangeReader is one ReadRange: it opens a body after the other until the range is complete.
type rangeReader struct {
	ctx   context.Context // Read has none of its own
	blob  *Blob
	trial *trial
	off   int64 // of the next byte
	left  int64 // of the range
	at    *candidate
	body  *body
	err   error // what every further Read returns
}

// open finds a host that begins to answer.
func (r *rangeReader) open() error {
	for {
		c, err := r.trial.next(r.ctx)
		if err != nil {
			return err
		}
		body, err := r.blob.open(r.ctx, c, r.off, r.left)
		if err == nil {
			r.at, r.body = c, body
			return nil
		}
		if err := r.trial.failed(r.ctx, c, err); err != nil {
			return err
		}
	}
}

func (r *rangeReader) Read(p []byte) (int, error) {
	for r.err == nil && r.left > 0 && len(p) > 0 {
		if r.body == nil {
			r.err = r.open()
			continue
		}
		n, err := r.body.Read(r.ctx, p)
		if n > 0 {
			r.off, r.left = r.off+int64(n), r.left-int64(n)
			r.trial.progress()
		}
		if err != nil {
			r.broken(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	if r.err == nil && r.left == 0 {
		return 0, io.EOF
	}
	return 0, r.err
}

// broken ends a body. One that merely promised less than the range leaves its host as good as it was.
func (r *rangeReader) broken(err error) {
	r.body.close()
	r.body = nil
	if err == io.EOF { //nolint:errorlint // the body's own, never wrapped
		r.at.tried = false
		return
	}
	r.err = r.trial.failed(r.ctx, r.at, err)
}

func (r *rangeReader) Close() error {
	if r.err == nil {
		r.err = fs.ErrClosed
	}
	if r.body != nil {
		r.body.close()
		r.body = nil
	}
	return nil
}
