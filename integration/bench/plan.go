package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/integration/bench/prepare"
	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/start"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/bench/workload"
)

// The links: none at all, a registry in the same region, one that is far away, and one in the same rack for the images that want it.
var (
	loopback = start.Link{}
	near     = start.Link{Latency: 10 * time.Millisecond, Bandwidth: 100e6}
	far      = start.Link{Latency: 50 * time.Millisecond, Bandwidth: 25e6}
	rack     = start.Link{Latency: time.Millisecond, Bandwidth: 1e9}
)

// everywhere is the workload that is measured on every link: it stands for the others, or the suite would take half a day.
const everywhere = "python"

// quickly are the workloads of the quick run: an interpreter, a server and a job.
var quickly = []string{"python", "redis", "imagemagick"}

// links are those on which a workload is measured.
func (s settings) links(w workload.Workload) []start.Link {
	switch {
	case s.quick && slices.Contains(quickly, w.Name):
		return []start.Link{near}
	case s.quick:
		return nil
	case w.Of != nil:
		return []start.Link{near, far, loopback}
	case w.ML && s.allLinks:
		return []start.Link{rack, loopback, near, far}
	case w.ML:
		return []start.Link{rack}
	case s.allLinks, w.Name == everywhere:
		return []start.Link{near, loopback, far}
	}
	return []start.Link{near}
}

// After the study that part 1 of the suite follows: so many cold starts in a row, and so many at once, of converting a picture.
const (
	burstOf    = "imagemagick"
	jobsInARow = 75
	jobsAtOnce = 10
)

// inARow are the systems of the long row: it takes a quarter of an hour for these two.
var inARow = []string{result.Baseline, "sluice esgz prefetch"}

// plan is the parts of the run that have something to measure, in order.
func (b *suite) plan() []func(context.Context) error {
	var parts []func(context.Context) error
	for _, w := range workload.All() {
		if contests := b.cold(w); len(contests) > 0 {
			parts = append(parts, func(ctx context.Context) error { return b.workload(ctx, w, contests) })
		}
	}
	if !b.quick {
		parts = append(parts, b.steady)
		parts = append(parts, b.growths()...)
		parts = append(parts, b.waits)
	}
	return parts
}

// cold are the contests of one workload that are wanted.
func (b *suite) cold(w workload.Workload) []start.Contest {
	var all []start.Contest
	add := func(c start.Contest) {
		if b.wants(c.Section, c.Subject, c.Case) {
			all = append(all, c)
		}
	}
	for i, l := range b.links(w) {
		c := b.contest(w.Name, l)
		// What comes in all hardly depends on the workload, and waiting for it takes as long as starting twice.
		c.Rest = i == 0 && (w.ML || w.Name == everywhere)
		if w.Of != nil {
			// What comes first hardly matters to whoever reads everything.
			c.Systems = b.chosen(func(s system.System) bool { return s.Form != system.Prefetch })
		}
		add(c)
	}
	if w.Name == burstOf && !b.quick {
		c := b.contest(fmt.Sprintf("%s, %d at once", w.Name, jobsAtOnce), near)
		c.Times = jobsAtOnce
		add(c)
		c = b.contest(fmt.Sprintf("%s, %d in a row", w.Name, jobsInARow), near)
		c.Repeat = jobsInARow
		c.Systems = b.chosen(func(s system.System) bool { return slices.Contains(inARow, s.Name) })
		add(c)
	}
	return all
}

func (b *suite) contest(subject string, l start.Link) start.Contest {
	return start.Contest{
		Section: result.Cold, Subject: subject, Case: l.String(), Link: l, Systems: b.rivals, Repeat: b.repeat, Times: 1, Progress: progress,
	}
}

// chosen are the rivals that a contest is for.
func (b *suite) chosen(want func(system.System) bool) []system.System {
	var list []system.System
	for _, s := range b.rivals {
		if want(s) {
			list = append(list, s)
		}
	}
	return list
}

// workload makes w's image and measures it.
func (b *suite) workload(ctx context.Context, w workload.Workload, contests []start.Contest) error {
	s, err := load(ctx, w)
	if err != nil {
		return b.none(ctx, contests, err)
	}
	return b.measure(ctx, []subject{s}, contests)
}

// none makes failed rows of contests for which there is no image.
func (b *suite) none(ctx context.Context, contests []start.Contest, why error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	progress("%v", why)
	for _, c := range contests {
		if err := b.addRows(c.None(why)); err != nil {
			return err
		}
	}
	return nil
}

// load makes w's image.
func load(ctx context.Context, w workload.Workload) (subject, error) {
	progress("preparing %s", w.Name)
	im, err := w.Image(ctx)
	if err != nil {
		return subject{}, fmt.Errorf("%s: %w", w.Name, err)
	}
	s := subject{prepare.Subject{Name: w.Name, Image: im, Args: w.Args}, w.Args, w.Ready, w.Output}
	if w.Of != nil {
		s.Name, s.Subject.Args = w.Of.Name, w.Of.Args
	}
	return s, nil
}

// measure brings subjects into a registry and holds the contests on them.
func (b *suite) measure(ctx context.Context, subjects []subject, contests []start.Contest) error {
	return b.within(ctx, subjects, b.needed(contests), func(m *prepare.Maker) error {
		for _, c := range contests {
			if err := b.checkLink(ctx, m, c.Link, subjects[0]); err != nil {
				return err
			}
			c.Registry, c.Jobs = m.Registry, jobs(m, subjects)
			c.Size, c.Needed = size(subjects), m.Needed(names(subjects)...)
			if slices.ContainsFunc(subjects, subject.whole) {
				c.Needed = c.Size
			}
			rows, err := c.Run(ctx)
			if err != nil {
				return err
			}
			if err := b.addRows(rows); err != nil {
				return err
			}
		}
		return nil
	})
}

// needed are the rivals that take part in one of the contests: forms of the image that only others start from are not made.
func (b *suite) needed(contests []start.Contest) []system.System {
	return b.chosen(func(s system.System) bool {
		return slices.ContainsFunc(contests, func(c start.Contest) bool {
			return slices.ContainsFunc(c.Systems, func(other system.System) bool { return other.Name == s.Name })
		})
	})
}

// size is the bytes of all layers of the subjects' ordinary images, each once.
func size(subjects []subject) int64 {
	layers := make(map[digest.Digest]int64)
	for _, s := range subjects {
		for _, l := range s.Image.Manifest.Layers {
			layers[l.Digest] = l.Size
		}
	}
	sum := int64(0)
	for _, n := range layers {
		sum += n
	}
	return sum
}

func names(subjects []subject) []string {
	list := make([]string, len(subjects))
	for i, s := range subjects {
		list[i] = s.Name
	}
	return list
}
