package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// listener is an HTTP server on one port that can stop and start listening without losing the port.
type listener struct {
	addr    string
	handler http.Handler

	mu       sync.Mutex
	server   *http.Server // nil while refusing
	served   chan struct{}
	reserved int // a bound socket that does not listen; -1 while serving
}

// listen takes a port. begin serves it, once all that h needs is there: who had the port before may have clients that still ask.
func listen(h http.Handler) (l *listener, begin func(), err error) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	l = &listener{addr: ln.Addr().String(), handler: h, reserved: -1}
	return l, func() { l.serve(ln) }, nil
}

// sendBuffer is the bytes that a connection holds for a client that does not read. What leaves the link has crossed the line, so
// there must not be much room behind it: a sender's buffer is on the other end of a line.
const sendBuffer = 2 * pieceSize

// serve starts a server on ln; the caller holds mu or is the constructor.
func (l *listener) serve(ln net.Listener) {
	server := &http.Server{Handler: l.handler, ReadHeaderTimeout: time.Minute, ConnContext: shrink}
	served := make(chan struct{})
	l.server, l.served = server, served
	go func() {
		defer close(served)
		// The error is ErrServerClosed, or the reason for which every client fails at once and loudly.
		_ = server.Serve(ln)
	}()
}

func shrink(ctx context.Context, c net.Conn) context.Context {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer) // fails only on a connection that is gone already
	}
	return ctx
}

func (l *listener) refuse() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server == nil {
		return nil
	}
	err := l.stop()
	fd, rerr := reserve(l.addr)
	l.reserved = fd
	return errors.Join(err, rerr)
}

func (l *listener) accept() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server != nil {
		return nil
	}
	if err := unix.Listen(l.reserved, unix.SOMAXCONN); err != nil {
		return fmt.Errorf("listen on %s: %w", l.addr, err)
	}
	f := os.NewFile(uintptr(l.reserved), l.addr)
	l.reserved = -1
	defer f.Close() // FileListener has a copy
	ln, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", l.addr, err)
	}
	l.serve(ln)
	return nil
}

func (l *listener) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reserved >= 0 {
		fd := l.reserved
		l.reserved = -1
		return unix.Close(fd)
	}
	if l.server == nil {
		return nil
	}
	return l.stop()
}

func (l *listener) stop() error {
	err := l.server.Close()
	<-l.served
	l.server = nil
	return err
}

// reserve binds addr without listening: connections are refused, and nobody else is given the port.
func reserve(addr string) (int, error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("reserve %s: %w", addr, err)
	}
	sa := &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("reserve %s: %w", addr, err), unix.Close(fd))
	}
	return fd, nil
}
