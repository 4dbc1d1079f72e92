package stack

import (
	"context"
	"crypto/rand"
	"io"
	"runtime"
	"strings"
)

// Ctr runs ctr against this node and returns its standard output; the error is a *CommandError. Flags before the command, as
// "-n", "namespace", come first.
func (n *Node) Ctr(ctx context.Context, args ...string) (string, error) {
	return output(ctx, n.env(), n.program("ctr"), args...)
}

// Script runs a shell script, which ends at the first command that fails, with this node's programs and address; the error is a *CommandError.
func (n *Node) Script(ctx context.Context, text string) error {
	_, err := output(ctx, n.env(), "/bin/sh", "-ec", text)
	return err
}

// CtrRemote runs this checkout's ctr-remote against this node.
func (n *Node) CtrRemote(ctx context.Context, args ...string) (string, error) {
	path, err := Program("ctr-remote")
	if err != nil {
		return "", err
	}
	return output(ctx, append(n.env(), "SLUICE_ADDRESS="+n.path("sluice.sock"), "CONTAINERD_SNAPSHOTTER=sluice"), path, args...)
}

// CtrRemote runs this checkout's ctr-remote where it needs no node: convert, inspect, verify.
func CtrRemote(ctx context.Context, args ...string) (string, error) {
	path, err := Program("ctr-remote")
	if err != nil {
		return "", err
	}
	return output(ctx, nil, path, args...)
}

// Container says what to run.
type Container struct {
	Ref         string
	Snapshotter string   // "" means overlayfs
	Namespace   string   // "" means default
	Args        []string // instead of the image's command; nil runs that
	Flags       []string // of ctr run
}

// Pull pulls c's image for its snapshotter, with ctr's default: the transfer service.
func (n *Node) Pull(ctx context.Context, c Container) error {
	_, err := n.Ctr(ctx, "-n", c.namespace(), "image", "pull", "--snapshotter", c.snapshotter(), c.Ref)
	return err
}

// Mount mounts c's image, which was pulled, at dir: to read, or with the flag "--rw" to write as well.
func (n *Node) Mount(ctx context.Context, c Container, dir string) error {
	args := []string{"-n", c.namespace(), "image", "mount", "--snapshotter", c.snapshotter(), "--platform", "linux/" + runtime.GOARCH}
	_, err := n.Ctr(ctx, append(append(args, c.Flags...), c.Ref, dir)...)
	return err
}

// Unmount undoes Mount.
func (n *Node) Unmount(ctx context.Context, c Container, dir string) error {
	_, err := n.Ctr(ctx, "-n", c.namespace(), "image", "unmount", "--rm", "--snapshotter", c.snapshotter(), dir)
	return err
}

// Run runs a container of an image that was pulled, to its end, and returns its standard output. A busy machine may lose the end
// of what a container writes fast (the shim gives up draining after a while): large results leave by a mounted folder.
func (n *Node) Run(ctx context.Context, c Container) (string, error) {
	var out strings.Builder
	err := n.run(ctx, c, &out)
	return out.String(), err
}

// run runs a container with its standard output going to out.
func (n *Node) run(ctx context.Context, c Container, out io.Writer) error {
	args := []string{"-n", c.namespace(), "run", "--rm", "--snapshotter", c.snapshotter()}
	args = append(append(args, c.Flags...), c.Ref, "c-"+strings.ToLower(rand.Text()))
	return execute(ctx, out, n.env(), append(append([]string{n.program("ctr")}, args...), c.Args...))
}

func (c Container) namespace() string   { return orElse(c.Namespace, "default") }
func (c Container) snapshotter() string { return orElse(c.Snapshotter, "overlayfs") }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
