package main

import (
	"context"
	"fmt"

	"github.com/sluice-snapshotter/sluice/integration/bench/prepare"
	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/start"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/images"
)

// growth is contests in which one thing grows.
type growth struct {
	subject string
	sizes   []int
	name    string // of the images' repositories, without their numbers
	image   func(ctx context.Context, n int) (*images.Image, error)
	numbers func(size int) []int // of the images
	times   func(size int) int   // containers of each image
	link    start.Link
}

func same(n int) int     { return n }
func always1(int) int    { return 1 }
func itself(n int) []int { return []int{n} }
func first(int) []int    { return []int{0} }
func firstOf(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

var allGrowths = []growth{
	{"layers", []int{1, 10, 40}, "layers", images.Layers, itself, always1, near},
	{"layers, far away", []int{1, 10, 40}, "layers", images.Layers, itself, always1, far},
	{"files in a layer", []int{1_000, 10_000, 126_000}, "files", images.Files, itself, always1, near},
	{"containers, one image", []int{1, 8, 32}, "distinct", images.Distinct, first, same, near},
	{"containers, different images", []int{1, 8, 32}, "distinct", images.Distinct, firstOf, always1, near},
}

// growths are the parts of the run in which something grows.
func (b *suite) growths() []func(context.Context) error {
	var parts []func(context.Context) error
	for _, g := range allGrowths {
		for _, n := range g.sizes {
			if c := b.step(g, n); b.wants(c.Section, c.Subject, c.Case) {
				parts = append(parts, func(ctx context.Context) error { return b.grow(ctx, g, c, n) })
			}
		}
	}
	return parts
}

// step is the contest of one size. One form of each snapshotter shows how it grows: the one without a prefetch list.
func (b *suite) step(g growth, n int) start.Contest {
	c := b.contest(g.subject, g.link)
	c.Section, c.Case, c.X, c.Times = result.Scaling, fmt.Sprint(n), float64(n), g.times(n)
	c.Systems = b.chosen(func(s system.System) bool {
		return s.Name == result.Baseline || s.Form == system.ESGZ || s.Convert != ""
	})
	return c
}

func (b *suite) grow(ctx context.Context, g growth, c start.Contest, n int) error {
	progress("preparing %s: %d", g.subject, n)
	var subjects []subject
	for _, i := range g.numbers(n) {
		im, err := g.image(ctx, i)
		if err != nil {
			return b.none(ctx, []start.Contest{c}, fmt.Errorf("%s: %w", g.subject, err))
		}
		s := prepare.Subject{Name: fmt.Sprintf("%s-%d", g.name, i), Image: im}
		subjects = append(subjects, subject{s, s.Args, images.SampleLine, images.SampleLine + "\n"})
	}
	return b.measure(ctx, subjects, []start.Contest{c})
}
