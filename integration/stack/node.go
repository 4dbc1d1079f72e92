package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// NodeOptions say what runs on a node. The zero value is containerd 2 on its own.
type NodeOptions struct {
	Containerd Version
	Daemon     *DaemonOptions // nil means no Sluice: only containerd's own snapshotters
	Proxy      *ProxyOptions  // another snapshotter; nil means none
	CRI        string         // snapshotter of the CRI plugin; "" means sluice if there is a daemon, else overlayfs
	PauseImage string         // reference; "" where no pod is run
	Env        []string       // of containerd and the daemon, besides this program's own
}

// Node is a containerd and, if asked for, a Sluice daemon, with folders of their own.
type Node struct {
	dir        string
	options    NodeOptions
	bins       []string // folders of the parts
	containerd *process
	daemon     *daemon
	proxy      *process
}

// StartNode starts the daemon or the other snapshotter, then containerd, with empty stores.
func StartNode(ctx context.Context, o NodeOptions) (_ *Node, err error) {
	bins, err := Parts(ctx, o.Containerd)
	if err != nil {
		return nil, err
	}
	dir, err := newDir("n")
	if err != nil {
		return nil, err
	}
	n := &Node{dir: dir, options: o, bins: bins}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := n.writeConfig(); err != nil {
		return nil, err
	}
	if o.Daemon != nil {
		if n.daemon, err = newDaemon(ctx, n); err != nil {
			return nil, err
		}
		if err := n.daemon.start(ctx); err != nil {
			return nil, err
		}
	}
	if o.Proxy != nil {
		if err := n.startProxy(ctx); err != nil {
			return nil, err
		}
	}
	return n, n.StartContainerd(ctx)
}

// Dir is the node's folder: everything that its parts store lies below it.
func (n *Node) Dir() string { return n.dir }

func (n *Node) path(elem ...string) string {
	return filepath.Join(append([]string{n.dir}, elem...)...)
}

// Socket is containerd's address.
func (n *Node) Socket() string { return n.path("containerd.sock") }

// env is what containerd and ctr run with: their own parts first on the PATH.
func (n *Node) env() []string {
	path := strings.Join(n.bins, ":") + ":" + os.Getenv("PATH")
	return append([]string{"PATH=" + path, "CONTAINERD_ADDRESS=" + n.Socket(), "DOCKER_CONFIG=" + n.path("docker")}, n.options.Env...)
}

// program is the path of one of the parts.
func (n *Node) program(name string) string { return filepath.Join(n.bins[0], name) }

// StartContainerd starts containerd and waits until it serves.
func (n *Node) StartContainerd(ctx context.Context) error {
	p, err := command{
		name: "containerd", log: n.path("containerd.log"), path: n.program("containerd"),
		args: []string{"--config", n.path("containerd.toml")}, env: n.env(),
	}.start()
	if err != nil {
		return err
	}
	n.containerd = p
	return poll(ctx, p, func(ctx context.Context) error { return serving(ctx, n.Socket()) })
}

// KillContainerd ends containerd at once, as a crash does; its containers go on.
func (n *Node) KillContainerd() {
	n.containerd.kill()
	n.containerd = nil
}

// dial connects to a unix socket, and that is all.
func dial(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

// serving asks the standard health service on a unix socket.
func serving(ctx context.Context, socket string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if s := answer.GetStatus(); s != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("health is %s", s)
	}
	return nil
}

// Close stops everything, containers as well, unmounts what is still mounted below the node's folder, and removes it. An error may also be
// that a part had ended by itself, or that the log of the daemon or of the other snapshotter shows a panic or a data race.
func (n *Node) Close() error {
	var errs []error
	if n.containerd != nil {
		errs = append(errs, n.containerd.stop())
	}
	shims, err := n.killShims()
	errs = append(errs, err)
	if n.daemon != nil {
		errs = append(errs, n.daemon.close())
	}
	if n.proxy != nil {
		errs = append(errs, n.proxy.stop(), misdeeds(n.proxy.log))
	}
	remains, err := n.killRemains()
	errs = append(errs, err, await(append(shims, remains...)))
	return errors.Join(append(errs, n.unmount(), os.RemoveAll(n.dir))...)
}

// unmount takes away what is mounted below the node's folder, last mounted first. Nothing is asked of the file systems: some are FUSE
// mounts whose server has gone, and what is mounted below such a one can no longer be named, but goes with it.
func (n *Node) unmount() error {
	var errs []error
	for {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(n.dir))
		if err != nil || len(mounts) == 0 {
			return err
		}
		before := len(mounts)
		errs = nil
		for _, m := range slices.Backward(mounts) {
			if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
			}
		}
		if len(errs) == before { // none could be
			return errors.Join(errs...)
		}
	}
}
