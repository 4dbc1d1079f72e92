package stack

import (
	"bytes"
	"context"
	"fmt"
)

// RunReady runs a container as Run does, and calls then, once, as soon as the container has written the line that is ready, given
// without its newline, to standard output. It is an error if the container ends without that line.
func (n *Node) RunReady(ctx context.Context, c Container, ready string, then func()) (string, error) {
	w := &watcher{line: ready, then: then}
	err := n.run(ctx, c, w)
	if err == nil && w.then != nil {
		err = fmt.Errorf("the container ended without having been ready: no line %q in %q", ready, w.text.Bytes())
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
