package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show what the daemon serves",
		ArgsUsage: " ",
		Flags:     []cli.Flag{jsonFlag(), addressFlag()},
		Action:    showStatus,
	}
}

func addressFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "address", Usage: "the daemon's socket, as `PATH`",
		Value: control.DefaultAddress, EnvVars: []string{"SLUICE_ADDRESS"},
	}
}

func showStatus(c *cli.Context) (err error) {
	if _, err := args(c, ""); err != nil {
		return err
	}
	client, err := control.Dial(c.String("address"))
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	report, err := client.Status(c.Context)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, report)
	}
	return printStatus(c.App.Writer, report)
}

func printStatus(w io.Writer, r control.StatusReport) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "version %s, pid %d, cache %s%s, in flight %s%s\n", r.Version, r.PID,
		size(r.Cache.Bytes), limit(r.Cache.Limit), size(r.Memory.Inflight), limit(r.Memory.Limit))
	if r.Cache.Trouble != "" {
		fmt.Fprintf(tw, "NOT STORED, read from the registry each time: %s\n", r.Cache.Trouble)
	}
	fmt.Fprintln(tw, "LAYER\tIMAGE\tFORMAT\tSTATE\tMOUNT\tSIZE\tFETCHED\tMOUNTS")
	for _, l := range r.Layers {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", short(l.Digest), l.Image, l.Format, l.State, l.Mount,
			size(l.Size), size(l.Fetched), l.Mounts)
	}
	return tw.Flush()
}

func limit(n int64) string {
	if n == 0 {
		return ""
	}
	return " of " + size(n)
}
