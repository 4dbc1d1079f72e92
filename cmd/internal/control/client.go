package control

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// DefaultAddress is where a daemon without configuration listens.
const DefaultAddress = "/run/containerd-sluice-grpc/containerd-sluice-grpc.sock"

// Client is the side of the commands.
type Client struct {
	address string
	conn    *grpc.ClientConn
}

// Dial makes a client of the daemon on a unix socket. It connects with the
// first call. The caller closes it.
func Dial(address string) (*Client, error) {
	conn, err := grpc.NewClient("unix:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("daemon at %s: %w", address, err)
	}
	return &Client{address: address, conn: conn}, nil
}

// Close lets go of the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Status asks what the daemon serves.
func (c *Client) Status(ctx context.Context) (report StatusReport, err error) {
	err = c.call(ctx, "Status", &report)
	return report, err
}

// Drain has the daemon unmount everything and exit.
func (c *Client) Drain(ctx context.Context) (report DrainReport, err error) {
	err = c.call(ctx, "Drain", &report)
	return report, err
}

// call asks for a report. Errors keep their gRPC status, but are written as
// what the daemon said, without gRPC's words around it.
func (c *Client) call(ctx context.Context, name string, report any) error {
	var out wrapperspb.StringValue
	if err := c.conn.Invoke(ctx, fullMethod(name), &emptypb.Empty{}, &out); err != nil {
		return &CallError{Address: c.address, Err: err}
	}
	if err := json.Unmarshal([]byte(out.GetValue()), report); err != nil {
		return &CallError{Address: c.address, Err: fmt.Errorf("answer to %s: %w", name, err)}
	}
	return nil
}

// A CallError is a call that the daemon refused or did not answer.
type CallError struct {
	Address string
	Err     error // has a gRPC status if it came from the connection
}

func (e *CallError) Error() string {
	message := e.Err.Error()
	if s, ok := status.FromError(e.Err); ok {
		message = s.Message()
	}
	return fmt.Sprintf("daemon at %s: %s", e.Address, message)
}

func (e *CallError) Unwrap() error { return e.Err }
