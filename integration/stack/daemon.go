package stack

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
)

// DaemonOptions of containerd-sluice-grpc.
type DaemonOptions struct {
	TOML         string   // its configuration file; "$NODE" in it stands for the node's folder, where "certs.d" is
	Args         []string // further flags
	Capabilities []string // of the proxy plugin, in containerd's configuration
}

// daemon is containerd-sluice-grpc on a node.
type daemon struct {
	node    *Node
	bin     string
	metrics string // unix socket path or host:port
	process *process
}

// built is where this program's own build of Sluice lies, made at the first use.
var built = sync.OnceValues(func() (string, error) {
	dir, err := root()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "bin")
	return bin, errors.Join(os.MkdirAll(bin, 0o755), Sluice(context.Background(), bin))
})

// Program is the path of the daemon ("containerd-sluice-grpc") or of "ctr-remote", built from this checkout.
func Program(name string) (string, error) {
	bin, err := built()
	return filepath.Join(bin, name), err
}

func newDaemon(_ context.Context, n *Node) (*daemon, error) {
	bin, err := Program("containerd-sluice-grpc")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	toml := n.expand(n.options.Daemon.TOML)
	return &daemon{node: n, bin: bin, metrics: port}, os.WriteFile(n.path("sluice.toml"), []byte(toml), 0o644)
}

func (d *daemon) start(ctx context.Context) error {
	n := d.node
	p, err := command{
		name: "containerd-sluice-grpc", log: n.path("sluice.log"), path: d.bin,
		args: append([]string{
			"--config", n.path("sluice.toml"), "--root", n.path("sluice"), "--state", n.path("sluice-state"),
			"--address", n.path("sluice.sock"), "--metrics-address", d.metrics, "--log-level", "debug",
		}, n.options.Daemon.Args...),
		env: n.env(),
	}.start()
	if err != nil {
		return err
	}
	d.process = p
	return poll(ctx, p, func(ctx context.Context) error { return serving(ctx, n.path("sluice.sock")) })
}

// close stops the daemon and reads its log for what must never be there.
func (d *daemon) close() error {
	var err error
	if d.process != nil {
		err = d.process.stop()
	}
	return errors.Join(err, misdeeds(d.node.path("sluice.log")))
}

// KillDaemon ends the daemon with SIGKILL, all its processes at once.
func (n *Node) KillDaemon() {
	n.daemon.process.kill()
	n.daemon.process = nil
}

// RestartDaemon starts the daemon on what it left, after KillDaemon or StopDaemon, and waits until containerd has found it again: for
// about a second after a failure gRPC does not try.
func (n *Node) RestartDaemon(ctx context.Context) error {
	if err := n.daemon.start(ctx); err != nil || n.containerd == nil {
		return err
	}
	return poll(ctx, n.containerd, func(ctx context.Context) error {
		_, err := n.Ctr(ctx, "snapshots", "--snapshotter", "sluice", "list")
		return err
	})
}

// StopDaemon ends the daemon with SIGTERM.
func (n *Node) StopDaemon() error {
	p := n.daemon.process
	n.daemon.process = nil
	return p.stop()
}

// DaemonRoot is the daemon's --root.
func (n *Node) DaemonRoot() string { return n.path("sluice") }

// DaemonPID is the process id of the daemon that was started.
func (n *Node) DaemonPID() int { return n.daemon.process.cmd.Process.Pid }
