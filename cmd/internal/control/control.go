// Package control is how Sluice's commands speak with its daemon: a small gRPC
// service on the daemon's socket, beside containerd's snapshots service.
//
// Its messages are the JSON that commands print with --json, and what they are
// asked for, carried in a google.protobuf.StringValue, so that one set of types
// is the wire format and the public one. Both sides are safe for use by many
// goroutines.
package control

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Service is the full name of the gRPC service.
const Service = "sluice.v1.Control"

// Layer states and mounts, as in StatusReport.
const (
	StateLazy     = "lazy"     // chunks are missing
	StateComplete = "complete" // all chunks are present
	StateFailed   = "failed"

	MountEROFS     = "erofs"      // native, on the data file
	MountEROFSFUSE = "erofs-fuse" // EROFS on a blob served over FUSE
	MountFUSE      = "fuse"       // the tree served over FUSE
)

// StatusReport is what the daemon serves at one moment. All sizes are bytes.
type StatusReport struct {
	Version string  `json:"version"`
	PID     int     `json:"pid"`
	Layers  []Layer `json:"layers"`
	Cache   Cache   `json:"cache"`
	Memory  Memory  `json:"memory"`
}

// Layer is one mounted layer.
type Layer struct {
	Digest  string `json:"digest"`
	Image   string `json:"image"` // the reference it was first pulled by
	Format  string `json:"format"`
	State   string `json:"state"`
	Mount   string `json:"mount"`
	Size    int64  `json:"size"`    // uncompressed
	Fetched int64  `json:"fetched"` // uncompressed
	Mounts  int    `json:"mounts"`
}

// Cache is the layer store on disk.
type Cache struct {
	Bytes int64 `json:"bytes"`
	Limit int64 `json:"limit"` // 0: none
	// Pinned are those of the bytes that cannot be given up now, because containers use them.
	Pinned int64 `json:"pinned"`
	// Trouble is why what is fetched cannot be stored, as on a full or failing disk, or when all is pinned; "" if it can.
	Trouble string `json:"trouble,omitempty"`
}

// Memory is what is being fetched.
type Memory struct {
	Inflight int64 `json:"inflight"`
	Limit    int64 `json:"limit"`
}

// DrainReport is what Drain left behind.
type DrainReport struct {
	Unmounted int `json:"unmounted"` // layers
}

// CacheReport is the layer store. All sizes are bytes.
type CacheReport struct {
	Layers []CachedLayer `json:"layers"` // in the order of their digests
	Cache  Cache         `json:"cache"`
}

// CachedLayer is a layer on disk.
type CachedLayer struct {
	Digest  string    `json:"digest"`
	Image   string    `json:"image"`  // the reference it was first pulled by; "" if it is not mounted
	Format  string    `json:"format"` // "" likewise
	State   string    `json:"state"`  // "" likewise
	InUse   bool      `json:"inUse"`  // by a container
	Disk    int64     `json:"disk"`
	Size    int64     `json:"size"`    // uncompressed
	Fetched int64     `json:"fetched"` // uncompressed
	LastUse time.Time `json:"lastUse"`
}

// RemoveRequest says which layers are to be removed: of those that no container
// uses, and no pull, the ones that fit at least one of the following.
type RemoveRequest struct {
	Digests []string `json:"digests,omitempty"`
	// Unused are those that no image of containerd has.
	Unused bool `json:"unused,omitempty"`
	// OlderThan are those that were not used for so long; nil: none. 0: all, but
	// those that came within half a minute, and still wait for a container.
	OlderThan *time.Duration `json:"olderThan,omitempty"`
}

// RemoveReport is what was removed.
type RemoveReport struct {
	Removed []string    `json:"removed"`
	Freed   int64       `json:"freed"` // bytes on disk
	Kept    []KeptLayer `json:"kept"`  // of those asked for by digest
}

// KeptLayer is a layer that was not removed.
type KeptLayer struct {
	Digest string `json:"digest"`
	Why    string `json:"why"`
}

// Server is the daemon's side.
type Server interface {
	Status(ctx context.Context, in Nothing) (StatusReport, error)
	// Drain unmounts every layer, and lets the daemon exit once it has answered.
	Drain(ctx context.Context, in Nothing) (DrainReport, error)
	Cache(ctx context.Context, in Nothing) (CacheReport, error)
	Remove(ctx context.Context, in RemoveRequest) (RemoveReport, error)
}

// Nothing is what a call is given that needs nothing.
type Nothing struct{}

// Register adds the service to a gRPC server.
func Register(r grpc.ServiceRegistrar, s Server) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: Service,
		HandlerType: (*Server)(nil),
		Methods: []grpc.MethodDesc{
			method("Status", Server.Status),
			method("Drain", Server.Drain),
			method("Cache", Server.Cache),
			method("Remove", Server.Remove),
		},
		Metadata: "sluice/v1/control",
	}, s)
}

// method makes a gRPC method of one that takes and returns what has a JSON
// form. An empty message stands for the zero value.
func method[Q, T any](name string, call func(Server, context.Context, Q) (T, error)) grpc.MethodDesc {
	handler := func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.StringValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		var request Q
		if text := in.GetValue(); text != "" {
			if err := json.Unmarshal([]byte(text), &request); err != nil {
				return nil, status.Errorf(codes.InvalidArgument, "request of %s: %v", name, err)
			}
		}
		answer := func(ctx context.Context, _ any) (any, error) {
			report, err := call(srv.(Server), ctx, request)
			if err != nil {
				return nil, err
			}
			b, err := json.Marshal(report)
			if err != nil {
				return nil, err
			}
			return wrapperspb.String(string(b)), nil
		}
		if intercept == nil {
			return answer(ctx, in)
		}
		info := &grpc.UnaryServerInfo{Server: srv, FullMethod: fullMethod(name)}
		return intercept(ctx, in, info, answer)
	}
	return grpc.MethodDesc{MethodName: name, Handler: handler}
}

func fullMethod(name string) string { return fmt.Sprintf("/%s/%s", Service, name) }
