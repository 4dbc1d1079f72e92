package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// ErrNotReady is wrapped by the error for a container that ended with status 0 and without the line that was waited for.
var ErrNotReady = errors.New("the container ended without having been ready")

// RunReady runs a container as Run does, and calls then, once, as soon as the container has written the line that is ready, given
// without its newline, to standard output. The error wraps ErrNotReady if the container ends without that line.
func (n *Node) RunReady(ctx context.Context, c Container, ready string, then func()) (string, error) {
	w := &watcher{line: ready, then: then}
	err := n.run(ctx, c, w)
	if err == nil && w.then != nil {
		err = fmt.Errorf("%w: no line %q in %q", ErrNotReady, ready, w.text.Bytes())
	}
	return w.text.String(), err
}

// watcher keeps what is written to it, and calls then when a line of it is complete.
type watcher struct {
	line  string
	then  func() // nil after the call
	text  bytes.Buffer
	start int // of the first line that is not complete
}

func (w *watcher) Write(p []byte) (int, error) {
	w.text.Write(p)
	for w.then != nil {
		rest := w.text.Bytes()[w.start:]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		if string(rest[:end]) == w.line {
			w.then()
			w.then = nil
		}
		w.start += end + 1
	}
	return len(p), nil
}
