package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
)

var report = control.StatusReport{
	Version: "v1.2.3", PID: 42,
	Layers: []control.Layer{{
		Digest: "sha256:ab", Image: "example.com/a:b", Format: "estargz", State: control.StateLazy,
		Mount: control.MountEROFSFUSE, Size: 100, Fetched: 10, Mounts: 2,
	}},
	Cache:  control.Cache{Bytes: 5, Limit: 6, Pinned: 4},
	Memory: control.Memory{Inflight: 7, Limit: 8},
}

// daemon answers, or refuses with err.
type daemon struct{ err error }

func (d daemon) Status(context.Context, control.Nothing) (control.StatusReport, error) {
	return report, d.err
}

func (d daemon) Drain(context.Context, control.Nothing) (control.DrainReport, error) {
	return control.DrainReport{Unmounted: 3}, d.err
}

func (d daemon) Cache(context.Context, control.Nothing) (control.CacheReport, error) {
	return control.CacheReport{Cache: report.Cache}, d.err
}

// Remove says what it was asked for.
func (d daemon) Remove(_ context.Context, in control.RemoveRequest) (control.RemoveReport, error) {
	r := control.RemoveReport{Removed: in.Digests}
	if in.Unused && in.OlderThan != nil {
		r.Freed = int64(*in.OlderThan)
	}
	return r, d.err
}

func dial(t *testing.T, d daemon, options ...grpc.ServerOption) *control.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "c") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	control.Register(server, d)
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	client, err := control.Dial(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestCalls(t *testing.T) {
	var called []string
	client := dial(t, daemon{}, grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		called = append(called, info.FullMethod)
		return next(ctx, req)
	}))
	got, err := client.Status(t.Context())
	if err != nil || !reflect.DeepEqual(got, report) {
		t.Errorf("Status: got %+v, %v, want %+v", got, err, report)
	}
	drained, err := client.Drain(t.Context())
	if err != nil || drained.Unmounted != 3 {
		t.Errorf("Drain: got %+v, %v", drained, err)
	}
	cached, err := client.Cache(t.Context())
	if err != nil || cached.Cache != report.Cache {
		t.Errorf("Cache: got %+v, %v", cached, err)
	}
	day := 24 * time.Hour
	removed, err := client.Remove(t.Context(), control.RemoveRequest{Digests: []string{"sha256:ab"}, Unused: true, OlderThan: &day})
	if err != nil || removed.Freed != int64(day) || !reflect.DeepEqual(removed.Removed, []string{"sha256:ab"}) {
		t.Errorf("Remove: got %+v, %v", removed, err)
	}
	want := []string{
		"/sluice.v1.Control/Status", "/sluice.v1.Control/Drain", "/sluice.v1.Control/Cache", "/sluice.v1.Control/Remove",
	}
	if !reflect.DeepEqual(called, want) {
		t.Errorf("interceptor saw %q, want %q", called, want)
	}
}

func TestRefused(t *testing.T) {
	client := dial(t, daemon{err: status.Error(codes.FailedPrecondition, "not now")})
	_, err := client.Status(t.Context())
	if status.Code(errors.Unwrap(err)) != codes.FailedPrecondition {
		t.Errorf("got %v, want the status that the daemon gave", err)
	}
	if !strings.HasSuffix(err.Error(), ": not now") {
		t.Errorf("got %q, want only what the daemon said", err)
	}
}

func TestNoDaemon(t *testing.T) {
	const silent = " does not answer (is it running? journalctl -u containerd-sluice-grpc)"
	dir, err := os.MkdirTemp("", "c") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listenUnix := func(name string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	stale := listenUnix("stale")
	stale.SetUnlinkOnClose(false)
	stale.Close()
	mute := listenUnix("mute") // the kernel takes connections for it; nobody answers
	t.Cleanup(func() { mute.Close() })
	for _, test := range []struct{ name, want string }{
		{"none", silent},
		{"stale", silent},
		{"mute", silent},
		{strings.Repeat("x", 108), " cannot be reached: invalid argument"},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := filepath.Join(dir, test.name)
			client, err := control.Dial(name)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			client.StatusTimeout, client.DrainTimeout = 50*time.Millisecond, 50*time.Millisecond
			_, err = client.Status(t.Context())
			_, drainErr := client.Drain(t.Context())
			for _, err := range []error{err, drainErr} {
				if err == nil || err.Error() != "daemon at "+name+test.want {
					t.Errorf("got %v, want it to end with %q", err, test.want)
				}
			}
			if code := status.Code(errors.Unwrap(err)); code != codes.Unavailable && code != codes.DeadlineExceeded {
				t.Errorf("got status %s", code)
			}
		})
	}
}

// TestOwnDeadline checks that a deadline of the caller's holds, and none else.
func TestOwnDeadline(t *testing.T) {
	var deadline time.Time
	client := dial(t, daemon{}, grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		deadline, _ = ctx.Deadline()
		return next(ctx, req)
	}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, test := range []struct {
		name string
		ctx  context.Context
		want time.Duration
		call func(context.Context) error
	}{
		{"Status", t.Context(), 10 * time.Second, func(ctx context.Context) error { _, err := client.Status(ctx); return err }},
		{"Drain", t.Context(), 2 * time.Minute, func(ctx context.Context) error { _, err := client.Drain(ctx); return err }},
		{"caller's", ctx, time.Hour, func(ctx context.Context) error { _, err := client.Status(ctx); return err }},
	} {
		if err := test.call(test.ctx); err != nil {
			t.Fatal(err)
		}
		if left := time.Until(deadline); left > test.want || left < test.want*3/4 {
			t.Errorf("%s: %s are left, want %s", test.name, left, test.want)
		}
	}
}

// TestReportFormat pins the JSON that people's scripts read.
func TestReportFormat(t *testing.T) {
	const want = `{"version":"v1.2.3","pid":42,"layers":[{"digest":"sha256:ab","image":"example.com/a:b",` +
		`"format":"estargz","state":"lazy","mount":"erofs-fuse","size":100,"fetched":10,"mounts":2}],` +
		`"cache":{"bytes":5,"limit":6,"pinned":4},"memory":{"inflight":7,"limit":8}}`
	got, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
