package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
)

func cacheCommand() *cli.Command {
	flags := []cli.Flag{jsonFlag(), addressFlag()}
	return &cli.Command{
		Name:   "cache",
		Usage:  "look at the daemon's layers on disk, and remove some",
		Action: group,
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list the layers, those used last first", ArgsUsage: " ", Flags: flags, Action: listCache},
			{Name: "du", Usage: "show what images take on disk", ArgsUsage: " ", Flags: flags, Action: showUsage},
			{
				Name: "prune", ArgsUsage: " ", Action: pruneCache,
				Usage: "remove layers that no image of containerd has any more",
				Flags: append([]cli.Flag{
					&cli.BoolFlag{Name: "all", Usage: "remove all layers that no container and no pull uses: they are fetched again when one does"},
					&cli.DurationFlag{Name: "older-than", Usage: "remove those too that no container uses and that were not used for so long, as `24h`"},
				}, flags...),
			},
			{
				Name: "rm", ArgsUsage: "LAYER|IMAGE...", Action: removeCached,
				Usage: "remove layers, by the beginnings of their digests, or all those that came with an image",
				Flags: flags,
			},
		},
	}
}

func listCache(c *cli.Context) error {
	if _, err := args(c, ""); err != nil {
		return err
	}
	return ask(c, func(client *control.Client) error {
		report, err := client.Cache(c.Context)
		if err != nil {
			return err
		}
		return show(c, report, printCache)
	})
}

func printCache(w io.Writer, r control.CacheReport) error {
	slices.SortStableFunc(r.Layers, func(a, b control.CachedLayer) int { return b.LastUse.Compare(a.LastUse) })
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "LAYER\tIMAGE\tFORMAT\tSTATE\tIN USE\tDISK\tSIZE\tFETCHED\tLAST USE")
	for _, l := range r.Layers {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", short(l.Digest), dash(l.Image), dash(l.Format), dash(l.State), yes(l.InUse),
			size(l.Disk), size(l.Size), size(l.Fetched), ago(l.LastUse))
	}
	return tw.Flush()
}

func dash(text string) string { return cmp.Or(text, "-") }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// ago is how long ago something was, roughly.
func ago(t time.Time) string {
	d := time.Since(t)
	switch {
	case t.IsZero():
		return "-"
	case d < time.Minute:
		return "just now"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}

// usageReport is what "cache du" prints. A layer counts for the image that it came with first.
type usageReport struct {
	Images []imageUsage  `json:"images"` // the largest first
	Cache  control.Cache `json:"cache"`
}

type imageUsage struct {
	Image  string `json:"image"` // "" for layers that are not mounted
	Layers int    `json:"layers"`
	Disk   int64  `json:"disk"`  // bytes
	InUse  int64  `json:"inUse"` // of these, bytes of layers that a container uses
}

func showUsage(c *cli.Context) error {
	if _, err := args(c, ""); err != nil {
		return err
	}
	return ask(c, func(client *control.Client) error {
		report, err := client.Cache(c.Context)
		if err != nil {
			return err
		}
		return show(c, usageOf(report), printUsage)
	})
}

func usageOf(r control.CacheReport) usageReport {
	byImage := make(map[string]*imageUsage)
	out := usageReport{Images: []imageUsage{}, Cache: r.Cache}
	for _, l := range r.Layers {
		u := byImage[l.Image]
		if u == nil {
			u = &imageUsage{Image: l.Image}
			byImage[l.Image] = u
		}
		u.Layers++
		u.Disk += l.Disk
		if l.InUse {
			u.InUse += l.Disk
		}
	}
	for _, u := range byImage {
		out.Images = append(out.Images, *u)
	}
	slices.SortFunc(out.Images, func(a, b imageUsage) int { return cmp.Or(cmp.Compare(b.Disk, a.Disk), cmp.Compare(a.Image, b.Image)) })
	return out
}

func printUsage(w io.Writer, r usageReport) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "IMAGE\tLAYERS\tDISK\tIN USE")
	for _, u := range r.Images {
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\n", cmp.Or(u.Image, "(not mounted)"), u.Layers, size(u.Disk), size(u.InUse))
	}
	fmt.Fprintf(tw, "all\t\t%s%s\t\n", size(r.Cache.Bytes), limit(r.Cache.Limit))
	printTrouble(tw, r.Cache)
	return tw.Flush()
}

func pruneCache(c *cli.Context) error {
	if _, err := args(c, ""); err != nil {
		return err
	}
	request := control.RemoveRequest{Unused: true}
	switch older := c.Duration("older-than"); {
	case c.Bool("all") && c.IsSet("older-than"):
		return usagef("prune: --all and --older-than say different things")
	case older < 0:
		return usagef("prune: --older-than %s is negative", older)
	case c.Bool("all"), c.IsSet("older-than"):
		request.OlderThan = &older // 0 with --all
	}
	return remove(c, func(*control.Client) (control.RemoveRequest, error) { return request, nil })
}

func removeCached(c *cli.Context) error {
	names := c.Args().Slice()
	if len(names) == 0 {
		return usagef("rm: which layers? Give digests, as \"ctr-remote cache ls\" shows them, or an image")
	}
	return remove(c, func(client *control.Client) (request control.RemoveRequest, err error) {
		report, err := client.Cache(c.Context)
		if err != nil {
			return request, err
		}
		for _, name := range names {
			digests, err := named(report.Layers, name)
			if err != nil {
				return request, err
			}
			request.Digests = append(request.Digests, digests...)
		}
		slices.Sort(request.Digests)
		request.Digests = slices.Compact(request.Digests)
		return request, nil
	})
}

// named are the layers that a name means: the image they came with, or the beginning of one's digest, with or without its algorithm.
func named(layers []control.CachedLayer, name string) ([]string, error) {
	var images, digests []string
	for _, l := range layers {
		_, hex, _ := strings.Cut(l.Digest, ":")
		if l.Image == name {
			images = append(images, l.Digest)
		}
		if strings.HasPrefix(l.Digest, name) || strings.HasPrefix(hex, name) {
			digests = append(digests, l.Digest)
		}
	}
	switch {
	case len(images) > 0:
		return images, nil
	case len(digests) == 1:
		return digests, nil
	case len(digests) > 1:
		return nil, fmt.Errorf("%q is the beginning of %d digests: give more of it", name, len(digests))
	}
	return nil, fmt.Errorf("%q is no layer on disk, and no image that one came with: see ctr-remote cache ls", name)
}

// remove has layers removed, and says what became of it. That some were not, because containers use them, is an error.
func remove(c *cli.Context, which func(*control.Client) (control.RemoveRequest, error)) error {
	return ask(c, func(client *control.Client) error {
		request, err := which(client)
		if err != nil {
			return err
		}
		report, err := client.Remove(c.Context, request)
		if err != nil {
			return err
		}
		if err := show(c, report, printRemoved); err != nil {
			return err
		}
		if len(report.Kept) > 0 {
			return errors.New("not all layers were removed")
		}
		return nil
	})
}

func printRemoved(w io.Writer, r control.RemoveReport) error {
	for _, d := range r.Removed {
		fmt.Fprintln(w, "removed", d)
	}
	for _, k := range r.Kept {
		fmt.Fprintln(w, "kept   ", k.Digest+":", k.Why)
	}
	_, err := fmt.Fprintf(w, "freed %s\n", size(r.Freed))
	return err
}
