package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/sluice-snapshotter/sluice/converter"
	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/prefetch"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

func convertCommand() *cli.Command {
	return &cli.Command{
		Name:      "convert",
		Usage:     "rewrite an image into the lazy format",
		ArgsUsage: "SRC DST",
		Description: `SRC and DST are references of a registry, oci:DIR[:TAG], oci-archive:FILE[:TAG] or containerd:REF.
Neither containerd nor root is needed, except for containerd:. Temporary files go to $TMPDIR.`,
		Flags:  convertFlags(),
		Action: convert,
	}
}

func convertFlags() []cli.Flag {
	flags := []cli.Flag{
		&cli.BoolFlag{Name: "estargz", Usage: "convert to eStargz", Value: true},
		&cli.BoolFlag{Name: "zstdchunked", Usage: "convert to zstd:chunked instead; implies --oci"},
		&cli.BoolFlag{Name: "oci", Usage: "turn Docker's media types into OCI's"},
		&cli.BoolFlag{Name: "reuse", Usage: "keep layers that are lazy already, in either format"},
		&cli.IntFlag{Name: "estargz-compression-level", Usage: "gzip `LEVEL`, 0 to 9", Value: 9},
		&cli.IntFlag{Name: "estargz-chunk-size", Usage: "most `BYTES` of a file in one chunk (default: 256 KiB, more in layers of more than 4 GiB)"},
		&cli.IntFlag{Name: "estargz-min-chunk-size", Usage: "least `BYTES` in one gzip stream (default: none)"},
		&cli.IntFlag{Name: "zstdchunked-compression-level", Usage: "zstd `LEVEL`, 1 to 22", Value: 3},
		&cli.IntFlag{Name: "zstdchunked-chunk-size", Usage: "most `BYTES` of a file in one chunk (default: 256 KiB, more in layers of more than 4 GiB)"},
		&cli.StringFlag{Name: "prefetch-list", Usage: "`FILE` of paths and globs, one a line, that come first; after a tab which bytes, as in 0-4095,65536-81919"},
		&cli.BoolFlag{Name: "fail-on-missing", Usage: "fail when a path of the prefetch list is not in the image"},
		&cli.BoolFlag{Name: "in-place", Usage: "allow DST to be SRC"},
		&cli.StringFlag{Name: "dest-creds", Usage: "`USER:PASS` for DST's registry (default: --creds if it is SRC's)"},
		jsonFlag(),
	}
	return append(append(append(flags, platformFlags()...), registryFlags()...), containerdFlags()...)
}

func convertOptions(c *cli.Context) (converter.Options, error) {
	sel, err := selection(c)
	if err != nil {
		return converter.Options{}, err
	}
	o := converter.Options{
		Selection: sel, OCI: c.Bool("oci"), Reuse: c.Bool("reuse"), FailOnMissing: c.Bool("fail-on-missing"),
	}
	if err := setFormat(c, &o); err != nil {
		return o, err
	}
	if err := o.Validate(); err != nil {
		return o, usageError{err}
	}
	if name := c.String("prefetch-list"); name != "" {
		err = readFile("prefetch-list", name, func(f *os.File) error {
			o.Prefetch, err = prefetch.Parse(f)
			return err
		})
	} else if o.FailOnMissing {
		err = usagef("--fail-on-missing: there is no --prefetch-list")
	}
	return o, err
}

// setFormat sets what the flags of one format say, and refuses those of the other: they would do nothing.
func setFormat(c *cli.Context, o *converter.Options) error {
	chosen, other, why := "estargz", "zstdchunked", "needs --zstdchunked"
	if c.Bool(other) {
		chosen, other, why = other, chosen, "excludes --zstdchunked"
		o.Format = toc.ZstdChunked
	}
	if !c.Bool(chosen) {
		return usagef("--estargz=false: the only other format is --zstdchunked")
	}
	for _, name := range c.LocalFlagNames() { // those that were given
		if name == other && c.Bool(name) || strings.HasPrefix(name, other+"-") {
			return usagef("--%s: %s", name, why)
		}
	}
	level := c.Int(chosen + "-compression-level")
	o.CompressionLevel, o.ChunkSize = &level, c.Int(chosen+"-chunk-size")
	if chosen == "estargz" {
		o.MinChunkSize = c.Int("estargz-min-chunk-size")
	}
	return nil
}

func convert(c *cli.Context) error {
	argv, err := args(c, "SRC DST")
	if err != nil {
		return err
	}
	from, err := spec(argv[0])
	if err != nil {
		return err
	}
	to, err := spec(argv[1])
	if err != nil {
		return err
	}
	if endpoint.Same(from, to) && !c.Bool("in-place") {
		return usagef("convert %s: target and source are the same image; --in-place replaces it", from)
	}
	o, err := convertOptions(c)
	if err != nil {
		return err
	}
	show := newProgress(c.App.ErrWriter)
	o.Progress = show.update
	report, err := convertBetween(c, from, to, o)
	show.finish()
	if err != nil {
		return fmt.Errorf("convert: %w", err)
	}
	for _, line := range report.Missing {
		fmt.Fprintf(c.App.ErrWriter, "warning: prefetch list: %s is not in the image\n", line)
	}
	for _, name := range report.Skipped {
		fmt.Fprintf(c.App.ErrWriter, "warning: prefetch list: %s cannot come first: its layer lacks an entry for its folder or link target\n", name)
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, report)
	}
	return printReport(c.App.Writer, report)
}

func convertBetween(c *cli.Context, from, to endpoint.Spec, o converter.Options) (_ *converter.Report, err error) {
	src, _, closeSource, err := openSource(c, from)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeSource()) }()
	dst, ctx, closeTarget, err := openTarget(c, from, to)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeTarget()) }()
	return converter.Convert(ctx, src, dst, o)
}

func printReport(w io.Writer, r *converter.Report) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PLATFORM\tSOURCE\tSIZE\tTARGET\tSIZE\tFORMAT\tFILES\tPREFETCH\tSECONDS")
	for _, l := range r.Layers {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%.1f\n", l.Platform, short(l.Source.String()), size(l.SourceSize),
			short(l.Target.String()), size(l.Size), strings.TrimSpace(l.Format+" "+kept(l.Action)), l.Files, size(l.PrefetchBytes), l.Seconds)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s %s\n", r.Target, r.Digest)
	return err
}

func kept(a converter.Action) string {
	if a == converter.Reused {
		return "(kept)"
	}
	return ""
}

// printJSON prints the value in one write, so that it is there whole or not at all.
func printJSON(w io.Writer, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(raw, '\n'))
	return err
}

// short is the beginning of a digest that people can tell apart.
func short(digest string) string {
	if _, hex, ok := strings.Cut(digest, ":"); ok && len(hex) > 12 {
		return hex[:12]
	}
	return digest
}

// size writes bytes for people.
func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fGB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fMB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1fkB", float64(n)/1e3)
	}
	return fmt.Sprintf("%dB", n)
}
