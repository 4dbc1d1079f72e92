package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/converter/inspect"
)

func inspectCommand() *cli.Command {
	flags := append([]cli.Flag{jsonFlag()}, platformFlags()...)
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show layers, formats, TOCs, prefetch lists and sizes",
		ArgsUsage: "REF",
		Flags:     append(append(flags, registryFlags()...), containerdFlags()...),
		Action:    inspectImage,
	}
}

func inspectImage(c *cli.Context) error {
	return withSource(c, func(ctx context.Context, src endpoint.Source, sel image.Selection) error {
		img, err := inspect.Inspect(ctx, src, sel)
		if err != nil {
			return fmt.Errorf("inspect: %w", err)
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, img)
		}
		return printImage(c.App.Writer, img)
	})
}

func printImage(w io.Writer, img *inspect.Image) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "%s %s\n", img.Ref, img.Digest)
	fmt.Fprintln(tw, "PLATFORM\tLAYER\tFORMAT\tSIZE\tDATA\tFILES\tCHUNKS\tPREFETCH\tTOC")
	for _, l := range img.Layers {
		if !l.Lazy() {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t-\t-\t-\t-\t-\n", l.Platform, l.Digest, l.Format, size(l.Size))
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d files, %s\t%s\n", l.Platform, l.Digest, l.Format, size(l.Size),
			size(l.DataSize), l.Files, l.Chunks, l.PrefetchFiles, size(l.PrefetchBytes), short(l.TOC.String()))
	}
	return tw.Flush()
}
