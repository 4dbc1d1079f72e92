package stack

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
)

// Ctr runs ctr against this node and returns its standard output; the error is a *CommandError. Flags before the command, as
// "-n", "namespace", come first.
func (n *Node) Ctr(ctx context.Context, args ...string) (string, error) {
	return output(ctx, n.env(), n.program("ctr"), args...)
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

// Run runs a container of an image that was pulled, to its end, and returns what it wrote: to standard output, and to standard
// error, which is in the *CommandError too. The shim writes it to a file, all of it: ctr loses the end of what comes fast.
func (n *Node) Run(ctx context.Context, c Container) (string, error) {
	id := "c-" + strings.ToLower(rand.Text())
	written := n.path(id + ".out")
	defer os.Remove(written)
	args := []string{"-n", c.namespace(), "run", "--rm", "--snapshotter", c.snapshotter(), "--log-uri", "file://" + written}
	args = append(append(args, c.Flags...), c.Ref, id)
	_, err := n.Ctr(ctx, append(args, c.Args...)...)
	text, readErr := os.ReadFile(written)
	if failed := (*CommandError)(nil); errors.As(err, &failed) {
		failed.Stderr += string(text[:min(len(text), 4096)])
		return string(text), err
	}
	return string(text), errors.Join(err, readErr)
}

func (c Container) namespace() string   { return orElse(c.Namespace, "default") }
func (c Container) snapshotter() string { return orElse(c.Snapshotter, "overlayfs") }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
