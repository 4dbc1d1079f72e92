package snapshotter_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluice-snapshotter/sluice/fs"
)

// suiteName makes the suite leave out the one thing that overlayfs cannot do
// with its default options, renaming a lower directory (its checkRename).
const suiteName = "overlayfs"

// TestSuite runs containerd's own tests of snapshotters, called directly and
// as containerd calls it, through gRPC over a unix socket.
func TestSuite(t *testing.T) {
	needRoot(t)
	// The suite removes its folders while we have something mounted there, and so not all of them.
	t.Setenv("TMPDIR", shortTemp(t))
	for _, mode := range []fs.Mode{fs.Auto, fs.FUSE} {
		t.Run(string(mode), func(t *testing.T) {
			t.Run("direct", func(t *testing.T) {
				testsuite.SnapshotterSuite(t, suiteName, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
					sn := newStand(t, mode, root).snapshotter
					return sn, sn.Close, nil
				})
			})
			t.Run("proxy", func(t *testing.T) {
				testsuite.SnapshotterSuite(t, suiteName, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
					sn := newStand(t, mode, root).snapshotter
					remote := throughProxy(t, sn)
					return remote, sn.Close, nil
				})
			})
		})
	}
}

// shortTemp is t.TempDir for sockets: the paths of tests are longer than the 108 bytes of an address.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// throughProxy serves a snapshotter on a unix socket and returns its client.
func throughProxy(t *testing.T, sn snapshots.Snapshotter) snapshots.Snapshotter {
	t.Helper()
	address := filepath.Join(shortTemp(t), "s")
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "sluice")
}
