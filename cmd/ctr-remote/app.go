package main

import (
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

func newApp(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:      "ctr-remote",
		Usage:     "convert images for lazy pulling, pull them, and look at them",
		Version:   version(),
		Writer:    stdout,
		ErrWriter: stderr,
		Flags:     containerdFlags(),
		Action:    group,
		Commands: []*cli.Command{
			{
				Name: "image", Aliases: []string{"images", "i"},
				Usage:  "work with images",
				Action: group,
				Subcommands: []*cli.Command{
					convertCommand(), rpullCommand(), verifyCommand(), inspectCommand(), tocDigestCommand(),
				},
			},
			statusCommand(),
			cacheCommand(),
		},
		OnUsageError:              usage,
		ExitErrHandler:            func(*cli.Context, error) {}, // run maps errors to exit statuses
		DisableSliceFlagSeparator: true,
	}
	setUsage(app.Commands)
	return app
}

// group is the action of a command that is only there for its subcommands.
func group(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("unknown command %q, see %s --help", c.Args().First(), c.App.Name)
	}
	return cli.ShowSubcommandHelp(c)
}

func usage(_ *cli.Context, err error, _ bool) error { return usageError{err} }

func setUsage(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = usage
		c.HideHelpCommand = true
		setUsage(c.Subcommands)
	}
}

// args checks the number of arguments against their names, "SRC DST" say.
func args(c *cli.Context, names string) ([]string, error) {
	want := strings.Fields(names)
	got := c.Args().Slice()
	if i := slices.IndexFunc(got, func(a string) bool { return len(a) > 1 && a[0] == '-' }); i >= 0 {
		return nil, usagef("%s: flag %s stands after an argument: flags come first", c.Command.Name, got[i])
	}
	if len(got) != len(want) {
		return nil, usagef("%s: want %s, got %d arguments", c.Command.Name, names, len(got))
	}
	return got, nil
}

// version is what the build information says.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
