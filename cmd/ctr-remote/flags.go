package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/urfave/cli/v2"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/fs/remote"
)

func registryFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "creds", Usage: "`USER:PASS` for the registry, instead of docker's configuration"},
		&cli.BoolFlag{Name: "plain-http", Usage: "speak HTTP with registries (localhost needs no flag)"},
		&cli.StringFlag{Name: "hosts-dir", Usage: "`DIR` of hosts.toml folders (default: /etc/containerd/certs.d)"},
	}
}

func platformFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "platform", Usage: "`PLATFORM` to take out of an index, repeatable (default: the host's)"},
		&cli.BoolFlag{Name: "all-platforms", Usage: "take all platforms, and what else is in an index"},
	}
}

func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print a JSON report"} }

func selection(c *cli.Context) (image.Selection, error) {
	sel := image.Selection{All: c.Bool("all-platforms")}
	names := c.StringSlice("platform")
	if sel.All && len(names) > 0 {
		return sel, usagef("--platform and --all-platforms exclude each other")
	}
	for _, name := range names {
		p, err := platforms.Parse(name)
		if err != nil {
			return sel, usagef("--platform %s: %w", name, err)
		}
		sel.Platforms = append(sel.Platforms, p)
	}
	return sel, nil
}

// spec parses an image argument.
func spec(arg string) (endpoint.Spec, error) {
	s, err := endpoint.ParseSpec(arg)
	if err != nil {
		return s, usageError{err}
	}
	return s, nil
}

// reference is the image of a command that takes one.
func reference(c *cli.Context) (endpoint.Spec, error) {
	argv, err := args(c, "REF")
	if err != nil {
		return endpoint.Spec{}, err
	}
	return spec(argv[0])
}

// withSource opens the image of a command that reads one, for as long as use runs.
func withSource(c *cli.Context, use func(context.Context, endpoint.Source, image.Selection) error) (err error) {
	s, err := reference(c)
	if err != nil {
		return err
	}
	sel, err := selection(c)
	if err != nil {
		return err
	}
	src, ctx, done, err := openSource(c, s)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Command.Name, err)
	}
	defer func() { err = errors.Join(err, done()) }()
	return use(ctx, src, sel)
}

// registry makes the registry client for one image. Given credentials go to the image's own host only, never to its
// mirrors.
func registry(c *cli.Context, host, creds string) (*remote.Registry, error) {
	o := remote.Options{
		ConfigPath: c.String("hosts-dir"),
		PlainHTTP:  c.Bool("plain-http"),
		UserAgent:  "ctr-remote/" + version(),
	}
	if creds != "" {
		user, secret, ok := strings.Cut(creds, ":")
		if !ok {
			return nil, usagef("credentials: want USER:PASS")
		}
		o.Credentials = func(asked string) (string, string, error) {
			if asked == host || host == "docker.io" && asked == "registry-1.docker.io" {
				return user, secret, nil
			}
			return "", "", nil
		}
	}
	return remote.New(o), nil
}

// openSource opens what an image argument names. The context that it returns is for all work with it; done releases
// both.
func openSource(c *cli.Context, s endpoint.Spec) (src endpoint.Source, ctx context.Context, done func() error, err error) {
	ctx = c.Context
	switch s.Kind {
	case endpoint.KindLayout:
		src, err = endpoint.NewLayoutSource(s.Path, s.Name)
	case endpoint.KindArchive:
		src, err = endpoint.NewArchiveSource(s.Path, s.Name)
	case endpoint.KindContainerd:
		stores, client, cerr := containerdStores(c)
		if cerr != nil {
			return nil, nil, nil, cerr
		}
		return stores.Source(s.Name), ctx, client.Close, nil
	default:
		reg, rerr := registry(c, s.Host(), c.String("creds"))
		if rerr != nil {
			return nil, nil, nil, rerr
		}
		src = endpoint.NewRegistrySource(reg.Resolver(), s.Name)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	return src, ctx, src.Close, nil
}

// openTarget is openSource for what is to be written.
func openTarget(c *cli.Context, src, s endpoint.Spec) (dst endpoint.Target, ctx context.Context, done func() error, err error) {
	ctx = c.Context
	switch s.Kind {
	case endpoint.KindLayout:
		dst, err = endpoint.NewLayoutTarget(s.Path, s.Name)
	case endpoint.KindArchive:
		dst, err = endpoint.NewArchiveTarget(s.Path, s.Name)
	case endpoint.KindContainerd:
		return containerdTarget(c, s)
	default:
		creds := c.String("dest-creds")
		if creds == "" && src.Host() == s.Host() {
			creds = c.String("creds")
		}
		reg, rerr := registry(c, s.Host(), creds)
		if rerr != nil {
			return nil, nil, nil, rerr
		}
		dst, err = endpoint.NewRegistryTarget(reg.Resolver(), s.Name)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	return dst, ctx, dst.Close, nil
}

// inherited is the value of a flag that may stand before the subcommand or after it.
func inherited(c *cli.Context, name string) string {
	for _, level := range c.Lineage() {
		if level.Command != nil && slices.Contains(level.LocalFlagNames(), name) {
			return level.String(name)
		}
	}
	return c.String(name)
}

// readFile opens a file that a flag names and hands it to read.
func readFile(flag, name string, read func(*os.File) error) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	if err := errors.Join(read(f), f.Close()); err != nil {
		return fmt.Errorf("--%s %s: %w", flag, name, err)
	}
	return nil
}
