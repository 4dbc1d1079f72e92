package main

import (
	"context"
	"errors"
	"slices"

	"github.com/sluice-snapshotter/sluice/integration/bench/prepare"
	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/steady"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/bench/workload"
)

// steadyWith is the workload in whose image files are read: it has large ones and many.
const steadyWith = "torch"

// steady reads files from every kind of mount.
func (b *suite) steady(ctx context.Context) error {
	o := steady.Options{
		Repeat: b.repeat, Report: b.report, Progress: progress, Torch: true,
		Want:    func(name string) bool { return b.only.matches(name) },
		Systems: b.mounts(),
	}
	if !slices.ContainsFunc(steady.Names(), o.Want) {
		return nil
	}
	if len(o.Systems) < 2 {
		progress("no kind of mount, such as \"sluice erofs\", is among the systems: nothing is read from a steady state")
		return nil
	}
	for _, w := range workload.All() {
		if w.Name != steadyWith {
			continue
		}
		s, err := load(ctx, w)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			progress("%v", err)
			steady.None(o, err)
			return b.save()
		}
		var systems []system.System
		for _, kind := range o.Systems {
			systems = append(systems, kind.System)
		}
		return b.within(ctx, []subject{s}, systems, func(m *prepare.Maker) error {
			o.Registry, o.Ref = m.Registry, func(f system.Form) string { return m.Ref(s.Name, f) }
			return errors.Join(steady.Run(ctx, o), b.save())
		})
	}
	return nil
}

// mounts are the kinds of mounts that were chosen, and the peers without prefetch lists.
func (b *suite) mounts() []steady.System {
	var list []steady.System
	for _, s := range steady.Systems() {
		if s.Name == result.Baseline || b.systems.matches(s.Name) {
			list = append(list, s)
		}
	}
	for _, s := range b.rivals {
		if !s.Own() && s.Name != result.Baseline && (s.Form == system.ESGZ || s.Convert != "") {
			list = append(list, steady.System{System: s})
		}
	}
	return list
}
