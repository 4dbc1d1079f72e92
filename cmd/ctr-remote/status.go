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

func showStatus(c *cli.Context) error {
	if _, err := args(c, ""); err != nil {
		return err
	}
	return ask(c, func(client *control.Client) error {
		report, err := client.Status(c.Context)
		if err != nil {
			return err
		}
		return show(c, report, printStatus)
	})
}

// ask calls the daemon. Its errors name the command.
func ask(c *cli.Context, call func(*control.Client) error) error {
	client, err := control.Dial(c.String("address"))
	if err == nil {
		err = errors.Join(call(client), client.Close())
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Command.Name, err)
	}
	return nil
}

// show prints a report as the flag --json says.
func show[T any](c *cli.Context, report T, print func(io.Writer, T) error) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, report)
	}
	return print(c.App.Writer, report)
}

func printStatus(w io.Writer, r control.StatusReport) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "version %s, pid %d, cache %s%s (pinned %s), in flight %s%s\n", r.Version, r.PID,
		size(r.Cache.Bytes), limit(r.Cache.Limit), size(r.Cache.Pinned), size(r.Memory.Inflight), limit(r.Memory.Limit))
	printTrouble(tw, r.Cache)
	fmt.Fprintln(tw, "LAYER\tIMAGE\tFORMAT\tSTATE\tMOUNT\tSIZE\tFETCHED\tMOUNTS")
	for _, l := range r.Layers {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", short(l.Digest), l.Image, l.Format, l.State, l.Mount,
			size(l.Size), size(l.Fetched), l.Mounts)
	}
	return tw.Flush()
}

func printTrouble(w io.Writer, c control.Cache) {
	if c.Trouble != "" {
		fmt.Fprintf(w, "what is fetched is not stored: %s\n", c.Trouble)
	}
}

func limit(n int64) string {
	if n == 0 {
		return ""
	}
	return " of " + size(n)
}
