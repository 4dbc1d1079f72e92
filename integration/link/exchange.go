package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/opencontainers/go-digest"
)

// pieceSize is the most bytes that go out in one write, so that connections take turns on the line.
const pieceSize = 32 << 10

type exchangeKey struct{}

// exchange is one request and the writer of its response: it shapes, counts, and does what its effect says.
type exchange struct {
	http.ResponseWriter
	ctx       context.Context // of the request, as long as which this lives
	link      *Link
	kind      Kind
	blob      digest.Digest
	effect    Effect
	injection *Injection

	wholeBody bool // drop the Range header
	sent      int64
	start     int64       // offset in the blob of the body's first byte
	cut       int64       // atCut runs before body byte cut goes out; -1 never
	atCut     func() bool // false: nothing more goes out
	corrupt   func(p []byte, off int64)
	began     bool
}

// request is r in the form that the proxy's Rewrite reads back.
func (x *exchange) request(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
}

// answered arms the effect and says whether it was the whole answer.
func (x *exchange) answered() bool { return x.effect != nil && x.effect.arm(x) }

func (x *exchange) WriteHeader(code int) {
	if x.began {
		x.ResponseWriter.WriteHeader(code)
		return
	}
	x.began = true
	if code == http.StatusPartialContent {
		// The error leaves start at 0, which is right for whatever has no such header.
		_, _ = fmt.Sscanf(x.Header().Get("Content-Range"), "bytes %d-", &x.start)
	}
	x.ResponseWriter.WriteHeader(code)
}

func (x *exchange) Write(p []byte) (int, error) {
	if !x.began {
		x.WriteHeader(http.StatusOK)
	}
	total := 0
	for len(p) > 0 {
		piece := p[:min(len(p), pieceSize)]
		if x.cut >= x.sent && x.cut < x.sent+int64(len(piece)) {
			if x.cut == x.sent {
				x.cut = -1
				if !x.atCut() {
					return total, errCut
				}
				continue
			}
			piece = piece[:x.cut-x.sent]
		}
		n, err := x.writePiece(piece)
		total += n
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

var errCut = errors.New("cut by a fault")

func (x *exchange) writePiece(p []byte) (int, error) {
	if err := x.link.shape.take(x.ctx, len(p)); err != nil {
		return 0, err
	}
	if x.corrupt != nil {
		x.corrupt(p, x.start+x.sent)
	}
	n, err := x.ResponseWriter.Write(p)
	x.sent += int64(n)
	x.link.counters.bytes(x.kind, x.blob, n)
	if err != nil {
		return n, err
	}
	return n, x.flush()
}

func (x *exchange) flush() error { return http.NewResponseController(x.ResponseWriter).Flush() }

// FlushError is what the proxy calls after each write; pieces are flushed already.
func (x *exchange) FlushError() error { return nil }

// abort closes the connection in the middle of whatever was promised.
func (x *exchange) abort() {
	_ = x.flush() // a client that has left needs no abort
	panic(http.ErrAbortHandler)
}

// reset closes the connection so that the peer's next read fails with ECONNRESET.
func (x *exchange) reset() {
	conn, _, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err != nil {
		x.abort()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a connection that is gone already
	}
	_ = conn.Close()
	panic(http.ErrAbortHandler)
}
