package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
)

func rpullCommand() *cli.Command {
	flags := []cli.Flag{
		&cli.StringFlag{Name: "snapshotter", Usage: "`NAME` of the snapshotter in containerd's configuration", Value: "sluice"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "the same as --creds, as ctr has it: `USER:PASS`"},
		&cli.BoolFlag{Name: "all-content", Usage: "then fetch all layers into containerd's content store as well, for push and export"},
	}
	return &cli.Command{
		Name:      "rpull",
		Usage:     "pull an image lazily, through the snapshotter",
		ArgsUsage: "REF",
		Description: `Works with containerd 1.7 and 2. It does not use containerd's transfer service: registries are reached
from here. The snapshotter has credentials of its own.`,
		Flags:  append(append(flags, registryFlags()...), containerdFlags()...),
		Action: rpull,
	}
}

func rpull(c *cli.Context) (err error) {
	s, err := reference(c)
	if err != nil {
		return err
	}
	if s.Kind != endpoint.KindRegistry {
		return usagef("rpull %s: not a registry's reference", s)
	}
	creds := c.String("creds")
	if user := c.String("user"); user != "" {
		if creds != "" {
			return usagef("--user and --creds are the same flag")
		}
		creds = user
	}
	reg, err := registry(c, s.Host(), creds)
	if err != nil {
		return err
	}
	cl, err := containerdClient(c)
	if err != nil {
		return fmt.Errorf("rpull: %w", err)
	}
	defer func() { err = errors.Join(err, cl.Close()) }()
	start := time.Now()
	// The wrapper gives each layer the labels from which the snapshotter knows what to mount; a layer that the
	// snapshotter takes is not fetched.
	img, err := cl.Pull(c.Context, s.Name,
		client.WithResolver(reg.Resolver()),
		client.WithPullUnpack,
		client.WithPullSnapshotter(c.String("snapshotter")),
		client.WithImageHandlerWrapper(snapshotters.AppendInfoHandlerWrapper(s.Name)),
	)
	if err != nil {
		return fmt.Errorf("rpull %s: %w", s.Name, err)
	}
	seconds := time.Since(start).Seconds()
	if c.Bool("all-content") {
		if _, err := cl.Fetch(c.Context, s.Name, client.WithResolver(reg.Resolver()), client.WithPlatformMatcher(img.Platform())); err != nil {
			return fmt.Errorf("rpull %s: fetch all content: %w", s.Name, err)
		}
	} else if err := sayWhole(c.Context, c.App.ErrWriter, cl.ContentStore(), img); err != nil {
		fmt.Fprintf(c.App.ErrWriter, "warning: which layers were taken lazily is not known: %v\n", err)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s %s %.1fs\n", img.Name(), img.Target().Digest, seconds)
	return err
}

// sayWhole names the layers of an image whose blob is in containerd's content store: it fetched them, as the
// snapshotter did not take them, now or at an earlier pull.
func sayWhole(ctx context.Context, w io.Writer, store content.Store, img pulled) error {
	m, err := images.Manifest(ctx, store, img.Target(), img.Platform())
	if err != nil {
		return err
	}
	for _, l := range m.Layers {
		switch _, err := store.Info(ctx, l.Digest); {
		case err == nil:
			fmt.Fprintf(w, "layer %s was not taken lazily; the daemon's log says why\n", l.Digest)
		case !errdefs.IsNotFound(err):
			return fmt.Errorf("layer %s: %w", l.Digest, err)
		}
	}
	return nil
}

// pulled is what sayWhole asks of containerd's client.Image.
type pulled interface {
	Target() ocispec.Descriptor
	Platform() platforms.MatchComparer
}
