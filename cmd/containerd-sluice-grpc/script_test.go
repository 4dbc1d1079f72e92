package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){program: main})
}

// TestScript runs the scripts in testdata/script on the real program.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Condition: func(name string) (bool, error) {
			if name == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, errors.New("unknown condition")
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("SOCKET", filepath.Join(env.WorkDir, "state", program+".sock"))
			env.Defer(func() { unmountBelow(t, env.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":    ready,
			"status":   writeStatus,
			"stale":    stale,
			"occupy":   occupy,
			"freeport": freeport,
			"scrape":   scrape,
			"prepare":  prepare,
			"notified": notified,
			"mounts":   mounts,
			"term":     term,

			"exitstatus": exitStatus,
		},
	})
}

// unmountBelow is for scripts that fail half-way.
func unmountBelow(t *testing.T, dir string) {
	for _, point := range mountPoints(t.Errorf, dir) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Errorf("unmount %s: %v", point, err)
		}
	}
}

// mountPoints lists the mount points below dir, the innermost first.
func mountPoints(fail func(string, ...any), dir string) (points []string) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		fail("%v", err)
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if point := strings.Fields(lines.Text())[4]; strings.HasPrefix(point, dir+"/") {
			points = append([]string{point}, points...)
		}
	}
	return points
}

func dial(ts *testscript.TestScript, socket string) *grpc.ClientConn {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	ts.Check(err)
	ts.Defer(func() { conn.Close() })
	return conn
}

// ready waits until the daemon on a socket answers: ready SOCKET
func ready(ts *testscript.TestScript, neg bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := healthpb.NewHealthClient(dial(ts, args[0]))
	resp, err := client.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	ts.Check(err)
	if resp.Status != healthpb.HealthCheckResponse_SERVING {
		ts.Fatalf("health: %s", resp.Status)
	}
}

// writeStatus writes the daemon's status: status SOCKET FILE
func writeStatus(ts *testscript.TestScript, neg bool, args []string) {
	client, err := control.Dial(args[0])
	ts.Check(err)
	defer client.Close()
	report, err := client.Status(context.Background())
	ts.Check(err)
	b, err := json.MarshalIndent(report, "", " ")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
}

// stale leaves a socket that nobody listens on: stale SOCKET
func stale(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.MkdirAll(filepath.Dir(args[0]), 0o700))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: args[0], Net: "unix"})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

// occupy listens on a socket, until the script ends: occupy SOCKET
func occupy(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.MkdirAll(filepath.Dir(args[0]), 0o700))
	l, err := net.Listen("unix", args[0])
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}

// freeport sets a variable to a host:port that is free: freeport NAME
func freeport(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	ts.Check(l.Close())
}

// scrape gets a page: scrape URL FILE
func scrape(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Get(args[0])
	ts.Check(err)
	defer resp.Body.Close()
	f, err := os.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	_, err = f.ReadFrom(resp.Body)
	ts.Check(errors.Join(err, f.Close()))
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("%s: %s", args[0], resp.Status)
	}
}

// prepare offers a layer of a registry that has nothing, which the daemon has to
// leave to containerd: prepare SOCKET
func prepare(ts *testscript.TestScript, neg bool, args []string) {
	registry := httptest.NewServer(http.NotFoundHandler())
	defer registry.Close()
	sn := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(dial(ts, args[0])), "sluice")
	mounts, err := sn.Prepare(context.Background(), "key", "", snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotRef:             "target",
		snapshotters.TargetRefLabel:            strings.TrimPrefix(registry.URL, "http://") + "/app:latest",
		snapshotters.TargetLayerDigestLabel:    digest.FromString("layer").String(),
		snapshotters.TargetManifestDigestLabel: digest.FromString("manifest").String(),
	}))
	ts.Check(err)
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		ts.Fatalf("got %+v, want a directory to unpack into", mounts)
	}
}

// notified runs a program as systemd does and compares what it says of its
// state, line by line: notified WANT PROGRAM ARG...
func notified(ts *testscript.TestScript, neg bool, args []string) {
	name := filepath.Join(ts.Getenv("WORK"), "notify.sock")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	ts.Check(err)
	defer conn.Close()
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Path, err = exec.LookPath(args[1])
	ts.Check(err)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+name)
	ts.Check(cmd.Start())
	var states []string
	for range strings.Count(args[0], ",") + 1 {
		b := make([]byte, 1024)
		ts.Check(conn.SetReadDeadline(time.Now().Add(20 * time.Second)))
		n, err := conn.Read(b)
		ts.Check(err)
		state, _, _ := strings.Cut(string(b[:n]), "\n")
		states = append(states, state)
		if state == "READY=1" {
			ts.Check(cmd.Process.Signal(unix.SIGTERM))
		}
	}
	ts.Check(cmd.Wait())
	if got := strings.Join(states, ","); got != args[0] {
		ts.Fatalf("got %s, want %s", got, args[0])
	}
}

// term sends SIGTERM to the programs in the background: term
func term(ts *testscript.TestScript, neg bool, args []string) {
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(unix.SIGTERM))
	}
}

// mounts checks whether anything is mounted below a directory: [!] mounts DIR
func mounts(ts *testscript.TestScript, neg bool, args []string) {
	points := mountPoints(ts.Fatalf, ts.MkAbs(args[0]))
	if neg != (len(points) == 0) {
		ts.Fatalf("mounted: %q", points)
	}
}

// exitStatus runs a program and checks how it ends: exitstatus CODE PROGRAM ARG...
func exitStatus(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit status %d, want %s", code, args[0])
	}
}
