package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// defaultConfigPath is read if --config is not given, and may be missing.
const defaultConfigPath = "/etc/" + program + "/config.toml"

// commandLine is what the flags say. Those for keys of the configuration are
// applied after the file is read.
type commandLine struct {
	help, version, drain bool
	configPath           string
	set                  []func(*config)
}

// parseFlags reads the flags. For --help it prints what there is to stdout.
func parseFlags(args []string, stdout io.Writer) (*commandLine, error) {
	var line commandLine
	flags := flag.NewFlagSet(program, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	flags.StringVar(&line.configPath, "config", "", "configuration `file` (default "+defaultConfigPath+", which may be missing)")
	flags.BoolVar(&line.version, "version", false, "print the version")
	flags.BoolVar(&line.drain, "drain", false, "unmount everything, end the daemon if one is running, and exit")
	key(flags, &line, "root", "`directory` of what has to survive a reboot", func(c *config) *directory { return &c.Root })
	key(flags, &line, "state", "`directory` of the socket and the mounts", func(c *config) *directory { return &c.State })
	key(flags, &line, "address", "unix `socket` to serve on (default in the state directory)", func(c *config) *socket { return &c.Address })
	key(flags, &line, "metrics-address", "`host:port` for metrics and profiles (default off)", func(c *config) *address { return &c.MetricsAddress })
	key(flags, &line, "log-level", "trace, debug, info, warn or error", func(c *config) *level { return &c.LogLevel })

	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		line.help = true
		return &line, usage(flags, stdout)
	case err != nil:
		return nil, &usageError{err}
	case flags.NArg() > 0:
		return nil, &usageError{fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	}
	return &line, nil
}

// key adds a flag for a key of the configuration. Its value is checked as in
// the file.
func key[T any, P interface {
	*T
	value
}](flags *flag.FlagSet, line *commandLine, name, usage string, field func(*config) P) {
	flags.Func(name, usage, func(s string) error {
		v := P(new(T))
		if err := v.UnmarshalText([]byte(s)); err != nil {
			return err
		}
		line.set = append(line.set, func(c *config) { *field(c) = *v })
		return nil
	})
}

func usage(flags *flag.FlagSet, w io.Writer) error {
	_, err := fmt.Fprintf(w, "usage: %s [flags]\n       %s config default\n       %s config check FILE\n\nFlags win over the configuration file.\n\n",
		program, program, program)
	flags.SetOutput(w)
	flags.PrintDefaults()
	return err
}

// config reads the configuration file and applies the flags.
func (line *commandLine) config() (config, error) {
	name, required := line.configPath, true
	if name == "" {
		name, required = defaultConfigPath, false
	}
	c, err := readConfig(name, required)
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	for _, set := range line.set {
		set(&c)
	}
	if err := c.check(); err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	return c, nil
}

// version is the module's version, or the commit that the program was built
// from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	return v
}

// setLog sends what the packages log to standard error, where systemd takes it.
func setLog(l level) {
	logrus.SetOutput(os.Stderr)
	logrus.SetLevel(l.Level)
	logrus.SetFormatter(&logrus.TextFormatter{TimestampFormat: log.RFC3339NanoFixed, FullTimestamp: true})
}
