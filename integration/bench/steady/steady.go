// Package steady measures what reading files costs once a container runs: on contents that are there, cold and warm, and on contents
// that have to come first.
//
// Its cases, each for every operation:
//
//   - "first read": nothing of the image's contents is on the node, and only this operation asks for them. A system that unpacks
//     images has everything on disk then, so for it this is a cold read.
//   - "complete, cold": everything is on disk, and the page cache is empty.
//   - "complete, warm": the same once more in the same container; the median of several times where it takes but milliseconds.
//   - "incomplete, cold" and "incomplete, warm": the same where what the operations read has come, but not the rest of the layers, so that
//     they are mounted as on the first day. A system that unpacks images has no such state; its rows are those of complete layers, measured once
//     more in turn with the others.
//
// Every operation of every case has a container of its own. What an operation read is compared with what it read in the first of the
// systems: a system that reads something else has failed, however fast it was.
package steady

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// The cases.
const (
	FirstRead      = "first read"
	CompleteCold   = "complete, cold"
	CompleteWarm   = "complete, warm"
	IncompleteCold = "incomplete, cold"
	IncompleteWarm = "incomplete, warm"
)

// Options of a run.
type Options struct {
	Registry *stack.Registry          // unshaped
	Ref      func(system.Form) string // reference of the image in each form
	Systems  []System                 // what they read is compared with what the first of them reads
	Repeat   int                      // how often each row is measured
	Want     func(name string) bool   // says which rows to measure, by name without the system: "steady/find/complete, cold"; nil means all
	Report   *result.Report           // rows are appended to it before anything is measured
	Progress func(format string, args ...any)
	Large    string // path in the image of the file for operations on one; "" means the largest below /usr
	Torch    bool   // the image can import torch
}

// System is one competitor.
type System struct {
	system.System // reads contents that are on the node

	// First, if it is not the zero System, reads contents for the first time and leaves layers incomplete, where that needs another
	// configuration: without fetching in the background, or small layers whole.
	First system.System

	// Mount is how status has to say that complete layers are mounted; "" where there is no such status.
	Mount string
	// Incomplete is how status has to say that incomplete layers are mounted; "" leaves the cases of these out.
	Incomplete string
	// Local leaves out what has to come first: another system's rows say it.
	Local bool
}

// Systems are the kinds of mounts: overlayfs, and Sluice with each setting of "mount", all with eStargz. The lazy mount that a container
// keeps when its layers become complete is one more kind.
func Systems() []System {
	onFUSE := mounted("erofs", "erofs-fuse", "")
	onFUSE.System = system.Sluice("sluice erofs-fuse", system.ESGZ, "mount = \"erofs\"\nnative = false\n")
	onFUSE.Local = true
	return []System{
		{System: system.Overlayfs},
		mounted("erofs", "erofs", "erofs-fuse"), mounted("loop", "erofs", "erofs-fuse"), onFUSE, mounted("fuse", "fuse", "fuse"),
	}
}

// mounted asks for one kind of mount and no other, so that a kernel that cannot do it makes rows that failed. Status calls it mount when layers are complete.
func mounted(setting, mount, incomplete string) System {
	name, toml := "sluice "+setting, fmt.Sprintf("mount = %q\n", setting)
	return System{
		System:     system.Sluice(name, system.ESGZ, toml),
		First:      system.Sluice(name, system.ESGZ, toml+"[fetch]\nbackground = false\nsmall_layers = \"0\"\n"),
		Mount:      mount,
		Incomplete: incomplete,
	}
}

// native says whether complete layers are read without a server, which would have memory of its own for what containers read.
func (s System) native() bool { return !s.Lazy() || s.Mount == "erofs" }

// has says whether a case is one of the system's.
func (s System) has(kase string) bool {
	switch kase {
	case FirstRead:
		return !s.Local
	case IncompleteCold, IncompleteWarm:
		return s.Incomplete != "" || !s.Lazy()
	}
	return true
}

// first is the system that reads contents for the first time.
func (s System) first() system.System {
	if s.First.Name == "" {
		return s.System
	}
	return s.First
}

// None makes failed rows of all that is wanted, where there is no image to read from.
func None(o Options, why error) { newRunner(o).explain(why) }

// Run measures, the systems in turn. Rows hold what went wrong with a system; the error is only about the machine, or ctx has ended.
func Run(ctx context.Context, o Options) (err error) {
	r := newRunner(o)
	if len(r.rows) == 0 {
		return nil
	}
	defer func() {
		r.close()
		r.explain(err)
	}()
	if r.box, err = newBox(ctx); err != nil {
		return fmt.Errorf("steady state: %w", err)
	}
	defer func() { err = errors.Join(err, r.box.remove()) }()
	for i := range o.Systems {
		r.start(ctx, i)
	}
	r.survey(ctx)
	if err := r.settle(ctx); err != nil {
		return err
	}
	for i := range o.Systems {
		r.startPartial(ctx, i)
	}
	for i := range o.Repeat {
		r.repetition = i + 1
		// What the first system reads first is what the others are compared with.
		order := result.Order(len(o.Systems), i)
		for _, op := range r.operations() {
			r.present(ctx, op, order, CompleteCold, CompleteWarm)
			r.present(ctx, op, order, IncompleteCold, IncompleteWarm)
			r.first(ctx, op, order)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}
