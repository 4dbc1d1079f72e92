package remote

import (
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// newTransport returns the transport that all hosts without TLS or dial settings of their own share.
func newTransport(headerTimeout time.Duration) *http.Transport {
	return tune(docker.DefaultHTTPTransport(nil), headerTimeout)
}

// tune changes what containerd sets up for a handful of downloads into what many concurrent range reads need. Dialling,
// proxies and TLS stay as containerd set them.
func tune(t *http.Transport, headerTimeout time.Duration) *http.Transport {
	// Without this a transport with a TLS configuration or dialer of its own speaks HTTP/1.1 only.
	t.ForceAttemptHTTP2 = true
	// A ping finds a dead HTTP/2 connection, which would otherwise take every stream on it to its stall timeout.
	// The rest of it is right as it is: a stream may be sent 4 MiB ahead of its reader and a connection 1 GiB, so a range is
	// not held up on long links, and a connection with as many streams as the host allows gets company.
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second}
	// Go keeps two idle connections per host unless told; each further range would pay a handshake.
	t.MaxIdleConnsPerHost = 64
	t.MaxIdleConns = 256
	t.IdleConnTimeout = 90 * time.Second
	t.ResponseHeaderTimeout = headerTimeout
	t.ReadBufferSize = 64 << 10
	return t
}
