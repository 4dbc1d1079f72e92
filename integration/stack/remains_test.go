package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
)

// running are the other processes whose arguments, each with a NUL behind it, match: as "pid arguments".
func running(t *testing.T, match func(args string) bool) []string {
	t.Helper()
	all, err := tasks()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range all {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if err == nil && p.pid != os.Getpid() && match(string(args)) {
			found = append(found, fmt.Sprintf("%d %q", p.pid, args))
		}
	}
	return found
}

func naming(t *testing.T, text string) []string {
	t.Helper()
	return running(t, func(args string) bool { return strings.Contains(args, text) })
}

// containers are those of abandon, of every node.
func containers(t *testing.T) []string {
	t.Helper()
	return running(t, func(args string) bool { return args == "/probe\x00pause\x00" })
}

func mounts(t *testing.T, dir string) []string {
	t.Helper()
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	var at []string
	for _, m := range all {
		at = append(at, m.Mountpoint)
	}
	return at
}

// vanishes closes a node and sees to it that nothing of it remains.
func vanishes(t *testing.T, n *Node) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if left := naming(t, n.dir); len(left) > 0 {
		t.Errorf("processes that remain: %v", left)
	}
	if left := mounts(t, n.dir); len(left) > 0 {
		t.Errorf("mounts that remain: %v", left)
	}
	if _, err := os.Stat(n.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s remains: %v", n.dir, err)
	}
}

// TestCloseEndsContainers leaves a container running by giving up on it, with each way of unpacking and with containerd dead.
func TestCloseEndsContainers(t *testing.T) {
	reg, err := StartRegistry(t.Context(), link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	ref := push(t, reg, images.Pause, "pause:latest")
	sluice := &DaemonOptions{TOML: "[registry]\nconfig_path = \"$NODE/certs.d\"\n"}
	for name, c := range map[string]struct {
		options NodeOptions
		before  func(n *Node)
	}{
		"overlayfs":    {NodeOptions{}, func(*Node) {}},
		"containerd17": {NodeOptions{Containerd: Containerd17}, func(*Node) {}},
		"sluice":       {NodeOptions{Daemon: sluice}, func(*Node) {}},
		"killed":       {NodeOptions{Daemon: sluice}, func(n *Node) { n.KillContainerd(); n.KillDaemon() }},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := StartNode(t.Context(), c.options)
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			if abandon(t, n, ref); t.Failed() {
				return
			}
			shims := naming(t, "-address\x00"+n.Socket())
			if len(shims) != 1 || len(containers(t)) != 1 {
				t.Fatalf("shims %v, containers %v; want one of each", shims, containers(t))
			}
			all, err := tasks()
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range trees(all, n.containerd.pid()) {
				if strings.HasPrefix(shims[0], fmt.Sprint(p.pid, " ")) {
					t.Errorf("containerd's usage has that of the shim %s", shims[0])
				}
			}
			c.before(n)
			vanishes(t, n)
			if left := containers(t); len(left) > 0 {
				t.Errorf("containers that remain: %v", left)
			}
		})
	}
}

// abandon starts a container that waits, and gives up when it does.
func abandon(t *testing.T, n *Node, ref string) {
	t.Helper()
	c := Container{Ref: ref, Args: []string{"/probe", "pause"}}
	if n.HasSnapshotter() {
		c.Snapshotter = "sluice"
	}
	if err := n.Pull(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() {
		_, err := n.Run(ctx, c)
		ended <- err
	}()
	waits := poll(ctx, nil, func(context.Context) error {
		if len(containers(t)) == 0 {
			return errors.New("the container has not started")
		}
		return nil
	})
	cancel()
	if err := <-ended; waits != nil || err == nil {
		t.Errorf("the container: %v; ctr: %v", waits, err)
	}
}

// TestCloseIsFast: where nothing remains, looking for it takes no time.
func TestCloseIsFast(t *testing.T) {
	n := &Node{dir: t.TempDir()}
	begin := time.Now()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 100*time.Millisecond {
		t.Errorf("closing a node of which nothing runs took %s", took)
	}
}

// TestCloseAfterAProxy has a snapshotter that detaches a helper whose arguments say nothing, breaks its mounts, and may panic.
func TestCloseAfterAProxy(t *testing.T) {
	for name, c := range map[string]struct {
		says, want string
	}{
		"well": {"nothing", ""},
		"ill":  {"panic: as told", `bad.log has "panic: as told"`},
	} {
		t.Run(name, func(t *testing.T) {
			n := proxyNode(t, c.says)
			deadMount(t, n.path("mnt"))
			_, err := os.Stat(n.path("mnt"))
			if !errors.Is(err, unix.ENOTCONN) {
				t.Fatalf("the mount is not dead: %v", err)
			}
			if c.want == "" {
				vanishes(t, n)
			} else if err := n.Close(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("close: %v", err)
			}
			if left := naming(t, "sleep\x004711"); len(left) > 0 {
				t.Errorf("helpers that remain: %v", left)
			}
		})
	}
}

// proxyNode is a node of which only the other snapshotter runs: a shell.
func proxyNode(t *testing.T, says string) *Node {
	t.Helper()
	dir, err := newDir("n")
	if err != nil {
		t.Fatal(err)
	}
	script := "trap 'exit 0' TERM; (setsid sleep 4711 &); echo '" + says + "'; >$1; while :; do sleep 0.01; done"
	n := &Node{dir: dir, options: NodeOptions{Proxy: &ProxyOptions{Name: "bad"}}}
	n.proxy, err = command{
		name: "bad", log: n.path("bad.log"), path: "/bin/sh", args: []string{"-c", script, "sh", n.path("ready")}, env: n.env(),
	}.start()
	if err != nil {
		t.Fatal(err)
	}
	err = poll(t.Context(), n.proxy, func(context.Context) error {
		if len(naming(t, "sleep\x004711")) == 0 {
			return errors.New("no helper")
		}
		return exists(n.path("ready"))
	})
	if err != nil {
		t.Fatal(errors.Join(err, n.Close()))
	}
	return n
}

// deadMount leaves at dir a FUSE mount whose server has gone, and a mount below it that can no longer be reached.
func deadMount(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	top := &fs.Inode{}
	server, err := fs.Mount(dir, top, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true},
		OnAdd: func(ctx context.Context) {
			top.AddChild("below", top.NewPersistentInode(ctx, &fs.Inode{}, fs.StableAttr{Mode: syscall.S_IFDIR}), false)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "below"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		t.Fatal(err)
	}
	control := t.TempDir()
	if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		t.Fatal(err)
	}
	connection := filepath.Join(control, fmt.Sprint(unix.Minor(st.Dev)), "abort")
	err = errors.Join(os.WriteFile(connection, []byte("1"), 0), unix.Unmount(control, unix.MNT_DETACH))
	if err != nil {
		t.Fatal(err)
	}
	server.Wait()
}

// TestARegistryThatDoesNotStart leaves neither folder nor memory behind.
func TestARegistryThatDoesNotStart(t *testing.T) {
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, start := range map[string]func(context.Context, link.Options) (*Registry, error){
		"disk": StartRegistry, "memory": StartMemoryRegistry,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := start(ctx, link.Options{}); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
			if left := mounts(t, dir); len(left) > 0 {
				t.Errorf("mounts that remain: %v", left)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "r*")); err != nil || len(left) > 0 {
				t.Errorf("folders that remain: %v, %v", left, err)
			}
			if left := naming(t, dir+"/r"); len(left) > 0 {
				t.Errorf("processes that remain: %v", left)
			}
		})
	}
}
