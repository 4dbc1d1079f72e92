package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// DefaultAddress is where a daemon without configuration listens.
const DefaultAddress = "/run/containerd-sluice-grpc/containerd-sluice-grpc.sock"

// Client is the side of the commands. The timeouts hold for calls whose context
// has no deadline; they may be changed before the first call.
type Client struct {
	StatusTimeout time.Duration // Dial: 10 s
	DrainTimeout  time.Duration // of Drain and Remove. Dial: 2 min, for what is being fetched has to end first

	address string
	conn    *grpc.ClientConn
	refused atomic.Pointer[error] // of the last attempt to connect; nil if it succeeded
}

// Dial makes a client of the daemon on a unix socket. It connects with the
// first call. The caller closes it.
func Dial(address string) (*Client, error) {
	c := &Client{StatusTimeout: 10 * time.Second, DrainTimeout: 2 * time.Minute, address: address}
	conn, err := grpc.NewClient("passthrough:///"+Service, grpc.WithAuthority("localhost"), // as gRPC has it for unix sockets
		grpc.WithContextDialer(c.connect), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("daemon at %s: %w", address, err)
	}
	c.conn = conn
	return c, nil
}

// connect keeps why it could not: gRPC has only a text of it.
func (c *Client) connect(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.address)
	if err != nil {
		c.refused.Store(&err)
		return nil, err
	}
	c.refused.Store(nil)
	return conn, nil
}

// Close lets go of the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Status asks what the daemon serves.
func (c *Client) Status(ctx context.Context) (report StatusReport, err error) {
	err = c.call(ctx, c.StatusTimeout, "Status", Nothing{}, &report)
	return report, err
}

// Drain has the daemon unmount everything and exit.
func (c *Client) Drain(ctx context.Context) (report DrainReport, err error) {
	err = c.call(ctx, c.DrainTimeout, "Drain", Nothing{}, &report)
	return report, err
}

// Cache asks what the layer store has.
func (c *Client) Cache(ctx context.Context) (report CacheReport, err error) {
	err = c.call(ctx, c.StatusTimeout, "Cache", Nothing{}, &report)
	return report, err
}

// Remove has layers removed from the store.
func (c *Client) Remove(ctx context.Context, request RemoveRequest) (report RemoveReport, err error) {
	err = c.call(ctx, c.DrainTimeout, "Remove", request, &report)
	return report, err
}

// call makes a request for a report. Errors keep their gRPC status, but are written as
// what the daemon said, without gRPC's words around it.
func (c *Client) call(ctx context.Context, timeout time.Duration, name string, request, report any) error {
	in, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("request of %s: %w", name, err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var out wrapperspb.StringValue
	if err := c.conn.Invoke(ctx, fullMethod(name), wrapperspb.String(string(in)), &out); err != nil {
		return &CallError{Address: c.address, Err: err, reason: c.reason(err)}
	}
	if err := json.Unmarshal([]byte(out.GetValue()), report); err != nil {
		return &CallError{Address: c.address, Err: fmt.Errorf("answer to %s: %w", name, err)}
	}
	return nil
}

// silent is what is wrong if the daemon did not say.
const silent = "does not answer (is it running? journalctl -u containerd-sluice-grpc)"

// reason says for people why a call had no answer, or nothing if it had one.
func (c *Client) reason(err error) string {
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		return silent
	case codes.Unavailable:
		var errno syscall.Errno
		if refused := c.refused.Load(); refused == nil || !errors.As(*refused, &errno) {
			return silent
		}
		switch errno {
		case syscall.ECONNREFUSED, syscall.ENOENT, syscall.EAGAIN: // EAGAIN: its backlog is full
			return silent
		}
		return "cannot be reached: " + errno.Error()
	}
	return ""
}

// A CallError is a call that the daemon refused or did not answer.
type CallError struct {
	Address string
	Err     error // has a gRPC status if it came from the connection

	reason string // instead of what Err says
}

func (e *CallError) Error() string {
	if e.reason != "" {
		return fmt.Sprintf("daemon at %s %s", e.Address, e.reason)
	}
	message := e.Err.Error()
	if s, ok := status.FromError(e.Err); ok {
		message = s.Message()
	}
	return fmt.Sprintf("daemon at %s: %s", e.Address, message)
}

func (e *CallError) Unwrap() error { return e.Err }
