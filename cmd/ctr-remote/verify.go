package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/converter/inspect"
)

func verifyCommand() *cli.Command {
	flags := append([]cli.Flag{jsonFlag()}, platformFlags()...)
	return &cli.Command{
		Name:      "verify",
		Usage:     "read a lazy image whole and check every digest: blobs, TOCs and chunks",
		ArgsUsage: "REF",
		Description: `Exit status 1 says that something is not what its digest says, 3 that all is right but not every
layer is lazy.`,
		Flags:  append(append(flags, registryFlags()...), containerdFlags()...),
		Action: verify,
	}
}

// verdict is verify's JSON report.
type verdict struct {
	Ref    string           `json:"ref"`
	Layers []inspect.Result `json:"layers"`
}

func verify(c *cli.Context) error {
	return withSource(c, func(ctx context.Context, src endpoint.Source, sel image.Selection) error {
		v := verdict{Ref: src.String()}
		err := inspect.Verify(ctx, src, sel, func(r inspect.Result) {
			v.Layers = append(v.Layers, r)
			fmt.Fprintf(c.App.ErrWriter, "%s %s read\n", short(r.Digest.String()), size(r.Size))
		})
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if err := v.print(c); err != nil {
			return err
		}
		return v.err()
	})
}

func (v verdict) print(c *cli.Context) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, v)
	}
	for _, r := range v.Layers {
		result := fmt.Sprintf("right, %d chunks", r.Chunks)
		switch {
		case r.Err != nil:
			result = "WRONG: " + r.Error
		case r.Format == "foreign":
			result = "not read"
		case !r.Lazy():
			result = "right, but not lazy"
		}
		if _, err := fmt.Fprintf(c.App.Writer, "%s %s %s: %s\n", r.Platform, r.Digest, r.Format, result); err != nil {
			return err
		}
	}
	return nil
}

// err is what the exit status comes from: something wrong outweighs something not lazy.
func (v verdict) err() error {
	var plain error
	for _, r := range v.Layers {
		switch {
		case r.Err != nil:
			return fmt.Errorf("verify %s: layer %s: %w", v.Ref, r.Digest, r.Err)
		case !r.Lazy() && r.Format != "foreign" && plain == nil:
			plain = fmt.Errorf("verify %s: layer %s: not lazy (%s): %w", v.Ref, r.Digest, r.Format, image.ErrUnsuitable)
		}
	}
	return plain
}
