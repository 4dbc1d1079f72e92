// Package prepare brings the images that are measured into a registry, in every form that a system starts from.
//
// What takes long is kept in the checkout's cache: converted images, named by their source, the converter's program and its arguments; and
// prefetch lists, named by the image and the command that they were recorded from.
package prepare

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// Subject is an image and what will run in it.
type Subject struct {
	Name  string // of its repository
	Image *images.Image
	Args  []string // of the container; nil runs the image's command
}

// Maker fills one registry.
type Maker struct {
	Registry *stack.Registry
	Systems  []system.System                  // whose forms are wanted
	Progress func(format string, args ...any) // of what takes long

	missing  map[string]error   // by reference
	profiles map[string]Profile // by name of the subject
}

// Needed is about how many bytes have to come before all of the named subjects, which were made, can be ready, what they share once; 0 if that could
// not be found out.
func (m *Maker) Needed(names ...string) int64 {
	sum, seen := int64(0), make(map[digest.Digest]bool)
	for _, name := range names {
		for _, f := range m.profiles[name].Files {
			if !seen[f.Digest] {
				seen[f.Digest] = true
				sum += f.Bytes
			}
		}
	}
	return sum
}

// Output is what a subject that was made printed where its image was unpacked; "" if that could not be found out.
func (m *Maker) Output(name string) string { return m.profiles[name].Output }

// Missing says why there is no image of this form; nil if there is one.
func (m *Maker) Missing(name string, form system.Form) error { return m.missing[m.Ref(name, form)] }

// Ref is the reference of an image's form, made or not.
func (m *Maker) Ref(name string, form system.Form) string {
	return m.Registry.Ref("bench/" + name + ":" + string(form))
}

// Make brings s into the registry in every form that a system wants. It wants the link unshaped. A form that cannot be made is a fault
// of the system that wants it: see Missing.
func (m *Maker) Make(ctx context.Context, s Subject) error {
	if err := s.Image.Push(ctx, m.Ref(s.Name, system.Plain)); err != nil {
		return fmt.Errorf("prepare %s: %w", s.Name, err)
	}
	m.missing, m.profiles = orNew(m.missing), orNew(m.profiles)
	p, err := m.profile(ctx, s)
	if err != nil {
		m.Progress("%s: %v", s.Name, err)
	}
	m.profiles[s.Name] = p
	done := []system.Form{system.Plain}
	for _, sys := range m.Systems {
		if slices.Contains(done, sys.Form) {
			continue
		}
		done = append(done, sys.Form)
		if err := m.form(ctx, s, sys, p); err != nil {
			err = fmt.Errorf("prepare %s as %s: %w", s.Name, sys.Form, err)
			m.missing[m.Ref(s.Name, sys.Form)] = err
			m.Progress("%v", err)
		}
	}
	return ctx.Err()
}

func orNew[K comparable, V any](m map[K]V) map[K]V {
	if m == nil {
		return make(map[K]V)
	}
	return m
}

func (m *Maker) form(ctx context.Context, s Subject, sys system.System, p Profile) error {
	if sys.Convert != "" {
		return m.script(ctx, s, sys)
	}
	var list []string
	if sys.Form != system.ESGZ {
		for _, f := range p.Files {
			list = append(list, f.line())
		}
		if len(list) == 0 {
			return errors.New("no prefetch list: it is not known what is opened")
		}
	}
	im, err := m.convert(ctx, s, sys.Form, list)
	if err != nil {
		return err
	}
	return im.Push(ctx, m.Ref(s.Name, sys.Form))
}
