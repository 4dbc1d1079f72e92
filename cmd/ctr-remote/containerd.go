package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/urfave/cli/v2"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
)

// containerdFlags may stand before the command, as with ctr, or after it.
func containerdFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "containerd-address", Usage: "containerd's socket, as `PATH`",
			Value: "/run/containerd/containerd.sock", EnvVars: []string{"CONTAINERD_ADDRESS"},
		},
		&cli.StringFlag{
			Name: "namespace", Aliases: []string{"n"}, Usage: "containerd's `NAMESPACE`",
			Value: namespaces.Default, EnvVars: []string{namespaces.NamespaceEnvVar},
		},
	}
}

// containerdClient connects to containerd; the caller closes it. Its namespace is in every call it makes.
func containerdClient(c *cli.Context) (*client.Client, error) {
	address := inherited(c, "containerd-address")
	// A client would keep trying to connect for its whole timeout.
	if _, err := os.Stat(address); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	cl, err := client.New(address, client.WithDefaultNamespace(inherited(c, "namespace")), client.WithTimeout(10*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	return cl, nil
}

func containerdStores(c *cli.Context) (endpoint.Containerd, *client.Client, error) {
	cl, err := containerdClient(c)
	if err != nil {
		return endpoint.Containerd{}, nil, err
	}
	return endpoint.Containerd{Content: cl.ContentStore(), Images: cl.ImageService()}, cl, nil
}

// containerdTarget holds a lease until done is called, so that nothing is collected before it is tagged.
func containerdTarget(c *cli.Context, s endpoint.Spec) (endpoint.Target, context.Context, func() error, error) {
	stores, cl, err := containerdStores(c)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, release, err := cl.WithLease(c.Context)
	if err != nil {
		return nil, nil, nil, errors.Join(fmt.Errorf("lease: %w", err), cl.Close())
	}
	done := func() error {
		// The lease goes even when c.Context has been cancelled.
		return errors.Join(release(context.WithoutCancel(ctx)), cl.Close())
	}
	return stores.Target(s.Name), ctx, done, nil
}
