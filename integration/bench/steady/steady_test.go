package steady

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

func TestMain(m *testing.M) { os.Exit(stack.Isolate(m.Run)) }

// options want the rows of these names.
func options(t *testing.T, reg *stack.Registry, want ...string) Options {
	return Options{
		Registry: reg,
		Ref:      func(f system.Form) string { return reg.Ref(tag(1, f)) },
		Systems:  Systems(),
		Repeat:   1,
		Want:     func(name string) bool { return slices.Contains(want, name) },
		Report:   &result.Report{},
		Progress: t.Logf,
	}
}

func TestSteady(t *testing.T) {
	reg := registry(t, 1, 2)
	t.Run("measured", func(t *testing.T) { testMeasured(t, reg) })
	t.Run("failed", func(t *testing.T) { testFailed(t, reg) })
	t.Run("memory", func(t *testing.T) { testMemory(t, reg) })
}

func testMeasured(t *testing.T, reg *stack.Registry) {
	want := map[string]result.Measure{
		"steady/sequential read/first read":           result.Throughput,
		"steady/sequential read/complete, cold":       result.Throughput,
		"steady/sequential read/complete, warm":       result.Throughput,
		"steady/random 4 KiB read/complete, warm":     result.Rate,
		"steady/mmap fault-in/complete, cold":         result.Throughput,
		"steady/10,000 small files/complete, cold":    result.Seconds,
		"steady/10,000 small files/complete, warm":    result.Seconds,
		"steady/sequential read/incomplete, cold":     result.Throughput,
		"steady/10,000 small files/incomplete, cold":  result.Seconds,
		"steady/10,000 small files/incomplete, warm":  result.Seconds,
		"steady/import torch/complete, warm":          "", // the image has no torch
		"steady/tar/incomplete, cold":                 "", // it would complete them
		"steady/something else/complete, warm":        "",
		"steady/sequential read/of another dimension": "",

		"steady/random 4 KiB read, little memory/complete, cold":   result.Rate,
		"steady/random 4 KiB read, little memory/incomplete, cold": "", // a server's memory has no limit
	}
	o := options(t, reg, slices.Collect(maps.Keys(want))...)
	check(t, Run(t.Context(), o))
	rows := 0
	for name, measure := range want {
		parts := strings.Split(name, "/")
		for _, s := range o.Systems {
			row := o.Report.Find(result.Steady, parts[1], parts[2], s.Name)
			wanted := measure != "" && (!s.Local || strings.HasPrefix(parts[2], "complete"))
			if strings.HasSuffix(parts[1], "little memory") && (s.Mount == "fuse" || s.Mount == "erofs-fuse") {
				wanted = false
			}
			if (row != nil) != wanted {
				t.Errorf("%s of %s: %+v", name, s.Name, row)
			}
			if row == nil {
				continue
			}
			rows++
			if v := row.Measures[measure]; !row.OK() || len(row.Measures) != 1 || len(v) != 1 || !sane(measure, v[0]) {
				t.Errorf("%+v", row)
			}
		}
	}
	if rows != len(o.Report.Rows) {
		t.Errorf("%d rows, want %d", len(o.Report.Rows), rows)
	}
}

// sane allows for a machine on which much else goes on.
func sane(m result.Measure, v float64) bool {
	switch m {
	case result.Throughput:
		return v > 1e5 && v < 1e13
	case result.Rate:
		return v > 100 && v < 1e8
	}
	return v > 1e-3 && v < 100
}

func testFailed(t *testing.T, reg *stack.Registry) {
	const sequential, find = "steady/sequential read/complete, cold", "steady/find/complete, warm"
	const partial, squeezed = "steady/sequential read/incomplete, warm", "steady/random 4 KiB read, little memory/complete, cold"
	o := options(t, reg, sequential, find, partial, squeezed, "steady/sequential read/first read")
	o.Large = "/usr/small/00000"
	sluice := o.Systems[2]
	other := sluice
	other.Name, other.Form = "another image", "other"
	absent := sluice
	absent.Name, absent.Form, absent.First = "no image", "absent", system.System{}
	otherwise := sluice
	otherwise.Name, otherwise.Incomplete = "mounted otherwise", "erofs"
	broken := System{System: system.Sluice("broken", system.ESGZ, "mount = \"so\"\n")}
	o.Systems = []System{o.Systems[0], other, absent, otherwise, broken}
	o.Ref = func(f system.Form) string {
		if f == "other" {
			return reg.Ref(tag(2, system.ESGZ))
		}
		return reg.Ref(tag(1, f))
	}
	check(t, Run(t.Context(), o))
	for _, c := range []struct{ subject, kase, system, want string }{
		{"sequential read", CompleteCold, result.Baseline, ""},
		{"sequential read", FirstRead, result.Baseline, ""},
		{"find", CompleteWarm, result.Baseline, "find"}, // the image has none
		{"sequential read", CompleteCold, "another image", "but overlayfs read 7 bytes"},
		{"sequential read", FirstRead, "another image", "but overlayfs read 7 bytes"},
		{"find", CompleteWarm, "another image", "find"},
		{"sequential read", CompleteCold, "no image", "not found"},
		{"sequential read", FirstRead, "no image", "not found"},
		{"sequential read", IncompleteWarm, result.Baseline, ""},
		{"sequential read", IncompleteWarm, "another image", "but overlayfs read 7 bytes"},
		{"sequential read", IncompleteWarm, "no image", "not found"},
		{"sequential read", IncompleteWarm, "mounted otherwise", `is lazy, mounted as "erofs-fuse"`},
		{"sequential read", CompleteCold, "mounted otherwise", ""},
		{"random 4 KiB read, little memory", CompleteCold, result.Baseline, "has 0 bytes"}, // it is not known
		{"find", CompleteWarm, "broken", "start broken"},
		{"sequential read", FirstRead, "broken", "start broken"},
	} {
		row := o.Report.Find(result.Steady, c.subject, c.kase, c.system)
		switch {
		case row == nil:
			t.Errorf("%+v: no row", c)
		case row.OK() != (c.want == "") || !row.OK() && len(row.Measures) > 0:
			t.Errorf("%+v: %+v", c, row)
		case c.want != "" && !strings.Contains(row.Failed[0], c.want):
			t.Errorf("%+v: failed with %q", c, row.Failed)
		}
	}
}

// testMemory runs a container that has too little memory, and one that has enough.
func testMemory(t *testing.T, reg *stack.Registry) {
	b, err := newBox(t.Context())
	check(t, err)
	t.Cleanup(func() { check(t, b.remove()) })
	n, err := system.Overlayfs.Start(t.Context(), reg)
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	c := stack.Container{Ref: reg.Ref(tag(1, system.Plain))}
	check(t, n.Pull(t.Context(), c))
	for bytes, ends := range map[int64]bool{0: false, 1 << 20: true, leastMemory: false} {
		o := b.run(t.Context(), n, job{container: c, args: []string{"sequential", "/usr/large"}, times: 1, limit: limit, memory: bytes})[0]
		if (o.err != nil) != ends {
			t.Errorf("with %d bytes: %+v", bytes, o)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	cancel(interrupted)
	o := options(t, nil, "steady/find/complete, warm")
	if err := Run(ctx, o); err == nil {
		t.Error("no error")
	}
	if len(o.Report.Rows) != len(o.Systems) || o.Report.Rows[0].OK() || len(o.Report.Rows[0].Failed) != 1 {
		t.Errorf("%+v", o.Report.Rows)
	}
}

func TestOutcomes(t *testing.T) {
	good, bad, failed := reading{Seconds: 1}, reading{Error: "bad"}, errors.New("exit status 1")
	for _, c := range []struct {
		name     string
		readings []reading
		failed   error
		want     []string
	}{
		{"good", []reading{good, good}, nil, []string{"", ""}},
		{"nothing", nil, failed, []string{"exit status 1", "exit status 1"}},
		{"one that failed", []reading{good, bad}, failed, []string{"", "bad"}},
		{"ended between", []reading{good}, failed, []string{"", "exit status 1"}},
		{"failed afterwards", []reading{good, good}, failed, []string{"exit status 1", "exit status 1"}},
		{"too few", []reading{good}, nil, []string{"", "1 results, want 2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, o := range outcomes(2, c.readings, c.failed) {
				if (o.err == nil) != (c.want[i] == "") || o.err != nil && o.err.Error() != c.want[i] {
					t.Errorf("%d: %v, want %q", i, o.err, c.want[i])
				}
			}
		})
	}
}

// TestNone fails every row that is wanted, and says why.
func TestNone(t *testing.T) {
	o := Options{
		Report: new(result.Report), Systems: Systems(), Torch: true,
		Want: func(name string) bool { return strings.HasPrefix(name, "steady/find/") },
	}
	None(o, errors.New("no such image"))
	want := 0
	for _, s := range o.Systems {
		if want += 5; s.Local {
			want -= 3
		}
	}
	if n := len(o.Report.Rows); n != want {
		t.Errorf("%d rows, want %d", n, want)
	}
	for _, r := range o.Report.Rows {
		if r.OK() || len(r.Failed) != 1 || !strings.Contains(r.Failed[0], "no such image") {
			t.Errorf("%s: %q", r.Name(), r.Failed)
		}
	}
}

func TestMiddle(t *testing.T) {
	ok := func(seconds float64, check string) outcome {
		return outcome{reading: reading{Seconds: seconds, Check: check}}
	}
	failed := outcome{err: errors.New("failed")}
	for _, c := range []struct {
		name string
		all  []outcome
		want float64
		err  string
	}{
		{"one", []outcome{ok(2, "a")}, 2, ""},
		{"three", []outcome{ok(3, "a"), ok(1, "a"), ok(2, "a")}, 2, ""},
		{"one failed", []outcome{ok(3, "a"), failed, ok(2, "a")}, 0, "failed"},
		{"one differs", []outcome{ok(3, "a"), ok(2, "b")}, 0, "read a, and b another time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := middle(c.all)
			if got.Seconds != c.want || (got.err == nil) != (c.err == "") || got.err != nil && got.err.Error() != c.err {
				t.Errorf("%+v, want %v, %q", got, c.want, c.err)
			}
		})
	}
}
