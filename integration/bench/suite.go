package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/prepare"
	"github.com/sluice-snapshotter/sluice/integration/bench/report"
	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/start"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// suite is one run.
type suite struct {
	settings
	rivals []system.System // that were chosen, the baseline first
	report *result.Report
	kept   []*result.Row // from the report that was there
}

// newSuite builds what is measured, and finds out what there is.
func newSuite(ctx context.Context, s settings) (*suite, error) {
	b := &suite{settings: s}
	all := system.Own()
	if s.peers != "" {
		there, absent, err := system.ReadPeers(s.peers)
		if err != nil {
			return nil, err
		}
		if len(absent) > 0 {
			progress("going on without %q, whose programs are not here", absent)
		}
		all = append(all, there...)
	}
	for _, sys := range all {
		if sys.Name == result.Baseline || s.systems.matches(sys.Name) {
			b.rivals = append(b.rivals, sys)
		}
	}
	if len(b.rivals) == 1 && len(b.mounts()) == 1 && s.systems.Regexp != nil {
		return nil, fmt.Errorf("-systems %q matches no system but %s, which is always measured", s.systems.String(), result.Baseline)
	}
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return nil, err
	}
	progress("building containerd, ctr, runc, the registry and Sluice, unless they are there (the first time takes minutes)")
	setup, err := newSetup(ctx, s, b.rivals)
	if err != nil {
		return nil, err
	}
	b.report = &result.Report{Format: result.Format, Started: time.Now().UTC(), Setup: setup}
	return b, b.keep()
}

// keep reads the rows of the report that is there, if they are to be added to.
func (b *suite) keep() error {
	if !b.add {
		return nil
	}
	old, err := result.Read(b.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("-add: %w", err)
	}
	if err := old.Setup.Same(b.report.Setup); err != nil {
		return fmt.Errorf("-add: the report in %s was measured with something else: %w: measure it all again", b.out, err)
	}
	for name, version := range old.Setup.Versions {
		b.report.Setup.Versions[name] = version
	}
	for name, was := range old.Setup.Settings {
		if value, again := b.report.Setup.Settings[name]; !again {
			b.report.Setup.Settings[name] = was
		} else if was != value {
			b.report.Setup.Settings[name] = was + "; then " + value
		}
	}
	b.report.Started, b.kept = old.Started, old.Rows
	return nil
}

// addRows puts rows into the report, and the report to disk: an interruption loses the contest at work and no more.
func (b *suite) addRows(rows []*result.Row) error {
	b.report.Rows = append(b.report.Rows, rows...)
	return b.save()
}

// save writes the report of what there is; without a time at which it was finished it says that it is not whole.
func (b *suite) save() error {
	whole := *b.report
	whole.Rows = nil
	for _, old := range b.kept {
		// Rivals belong together.
		if !slices.ContainsFunc(b.report.Rows, old.Rivals) {
			whole.Rows = append(whole.Rows, old)
		}
	}
	whole.Rows = append(whole.Rows, b.report.Rows...)
	return errors.Join(whole.Write(b.file()), report.Write(&whole, b.out))
}

// subject is an image in a registry of its own, and what runs in it.
type subject struct {
	prepare.Subject          // with the command that is recorded
	args            []string // of what runs
	ready, output   string
}

// whole says whether all of the image is read, of whatever the recorded command needs.
func (s subject) whole() bool { return !slices.Equal(s.args, s.Args) }

// within calls use with a registry that has the subjects in every form that one of the systems needs.
func (b *suite) within(ctx context.Context, subjects []subject, systems []system.System, use func(m *prepare.Maker) error) (err error) {
	reg, err := stack.StartMemoryRegistry(ctx, link.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	m := &prepare.Maker{Registry: reg, Systems: systems, Progress: progress}
	for _, s := range subjects {
		if err := m.Make(ctx, s.Subject); err != nil {
			return err
		}
	}
	return use(m)
}

// jobs are the containers of the subjects, in one form.
func jobs(m *prepare.Maker, subjects []subject) func(system.Form) []start.Job {
	return func(f system.Form) []start.Job {
		var all []start.Job
		for _, s := range subjects {
			j := start.Job{Ref: m.Ref(s.Name, f), Args: s.args, Ready: s.ready, Output: s.output, Err: m.Missing(s.Name, f)}
			j.Output = cmp.Or(j.Output, m.Output(s.Name))
			j.Ready = cmp.Or(j.Ready, strings.TrimSuffix(j.Output, "\n"))
			all = append(all, j)
		}
		return all
	}
}
