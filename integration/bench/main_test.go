package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/bench/prepare"
	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/bench/workload"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args []string
		err  string // "" for none
	}{
		{nil, ""},
		{[]string{"-quick", "-only", "cold/.*", "-systems", "zstd", "-repeat", "2", "-add"}, ""},
		{[]string{"-only", "("}, "missing closing )"},
		{[]string{"-repeat", "0"}, "-repeat 0"},
		{[]string{"python"}, `what is "python"`},
		{[]string{"-fast"}, "-fast"},
		{[]string{"-compare", ""}, "-compare"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			_, err := parse(c.args)
			if (c.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, want %q", err, c.err)
			}
		})
	}
}

// planned are the names of all contests, without systems.
func planned(t *testing.T, args ...string) []string {
	t.Helper()
	s, err := parse(args)
	if err != nil {
		t.Fatal(err)
	}
	b := &suite{settings: s, rivals: system.Own()}
	var names []string
	for _, w := range workload.All() {
		for _, c := range b.cold(w) {
			names = append(names, result.Situation(c.Section, c.Subject, c.Case))
		}
	}
	for _, g := range allGrowths {
		for _, n := range g.sizes {
			if c := b.step(g, n); b.wants(c.Section, c.Subject, c.Case) {
				names = append(names, result.Situation(c.Section, c.Subject, c.Case))
			}
		}
	}
	return names
}

func TestPlan(t *testing.T) {
	all := planned(t)
	for _, want := range []string{
		"cold/python/loopback", "cold/python/10 ms, 100 MB/s", "cold/python/50 ms, 25 MB/s", "cold/postgres/10 ms, 100 MB/s",
		"cold/imagemagick, 75 in a row/10 ms, 100 MB/s", "cold/imagemagick, 10 at once/10 ms, 100 MB/s", "cold/torch/1 ms, 1 GB/s",
		"cold/model-read/1 ms, 1 GB/s", "cold/whole python/50 ms, 25 MB/s", "cold/whole torch/loopback", "scaling/layers, far away/40",
		"scaling/layers/40", "scaling/files in a layer/126000", "scaling/containers, different images/32",
	} {
		if !slices.Contains(all, want) {
			t.Errorf("%q is not planned", want)
		}
	}
	quick := []string{"cold/python/10 ms, 100 MB/s", "cold/redis/10 ms, 100 MB/s", "cold/imagemagick/10 ms, 100 MB/s"}
	if got := planned(t, "-quick", "-only", "cold"); !slices.Equal(got, quick) {
		t.Errorf("quick: %q", got)
	}
	if got := planned(t, "-only", "/python/.*25 MB"); !slices.Equal(got, []string{"cold/python/50 ms, 25 MB/s"}) {
		t.Errorf("narrowed: %q", got)
	}
}

func TestChosenSystems(t *testing.T) {
	b, found := &suite{rivals: system.Own()}, 0
	for _, c := range b.cold(imagemagick(t)) {
		names := ""
		for _, s := range c.Systems {
			names += s.Name + ";"
		}
		if strings.Contains(c.Subject, "in a row") || strings.Contains(c.Subject, "at once") {
			found++
		}
		if strings.Contains(c.Subject, "in a row") && (names != "overlayfs;sluice esgz prefetch;" || c.Repeat != 75) {
			t.Errorf("%s: %s, %d times", c.Subject, names, c.Repeat)
		}
		if strings.Contains(c.Subject, "at once") && c.Times != 10 {
			t.Errorf("%s: %d", c.Subject, c.Times)
		}
	}
	if found != 2 {
		t.Errorf("%d rows and bursts, want 2", found)
	}
}

// TestWhole has workloads that read all of another one's image.
func TestWhole(t *testing.T) {
	b, found := &suite{rivals: system.Own()}, 0
	for _, w := range workload.All() {
		if w.Of == nil {
			continue
		}
		found++
		for _, c := range b.cold(w) {
			if !strings.HasPrefix(c.Subject, "whole ") || len(c.Systems) != len(system.Own())-1 {
				t.Errorf("%s: %d systems", c.Subject, len(c.Systems))
			}
		}
		if list := b.needed(b.cold(w)); len(list) != len(system.Own())-1 {
			t.Errorf("%s: its image is made for %d systems", w.Name, len(list))
		}
		s := subject{prepare.Subject{Name: w.Of.Name, Args: w.Of.Args}, w.Args, w.Ready, w.Output}
		if own := (subject{prepare.Subject{Args: w.Args}, w.Args, w.Ready, w.Output}); !s.whole() || own.whole() {
			t.Errorf("%s: %+v", w.Name, s)
		}
	}
	if found != 2 {
		t.Errorf("%d such workloads, want 2", found)
	}
}

func imagemagick(t *testing.T) workload.Workload {
	t.Helper()
	for _, w := range workload.All() {
		if w.Name == burstOf {
			return w
		}
	}
	t.Fatal("no", burstOf)
	return workload.Workload{}
}

// TestAdd keeps what was measured earlier, unless it is measured again or was measured with other programs.
func TestAdd(t *testing.T) {
	dir := t.TempDir()
	row := func(subject string, value float64) *result.Row {
		return &result.Row{
			Section: result.Cold, Subject: subject, Case: "loopback", System: result.Baseline,
			Measures: map[result.Measure][]float64{result.Total: {value}},
		}
	}
	old := &result.Report{Format: result.Format, Setup: result.Setup{Versions: map[string]string{"sluice": "1"}}}
	old.Rows = []*result.Row{row("a", 1), row("b", 2)}
	if err := old.Write(filepath.Join(dir, "report.json")); err != nil {
		t.Fatal(err)
	}
	begin := func(version string) (*suite, error) {
		b := &suite{settings: settings{add: true, out: dir}, report: &result.Report{
			Format: result.Format, Setup: result.Setup{Versions: map[string]string{"sluice": version}},
		}}
		return b, b.keep()
	}
	if _, err := begin("2"); err == nil || !strings.Contains(err.Error(), "sluice") {
		t.Errorf("added to another version's report: %v", err)
	}
	b, err := begin("1")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.addRows([]*result.Row{row("b", 3)}); err != nil {
		t.Fatal(err)
	}
	now, err := result.Read(b.file())
	if err != nil {
		t.Fatal(err)
	}
	if len(now.Rows) != 2 || now.Rows[0].Measures[result.Total][0] != 1 || now.Rows[1].Measures[result.Total][0] != 3 {
		t.Errorf("rows: %+v", now.Rows)
	}
	if !now.Finished.IsZero() {
		t.Error("a run that goes on has a report that looks whole")
	}
}

func TestFailures(t *testing.T) {
	good := &result.Row{Measures: map[result.Measure][]float64{result.Total: {1}}}
	bad := &result.Row{Failed: []string{"it broke"}}
	if err := failures(&result.Report{Rows: []*result.Row{good}}); err != nil {
		t.Error(err)
	}
	if err := failures(&result.Report{Rows: []*result.Row{good, bad}}); err == nil || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("got %v", err)
	}
}

func TestCompare(t *testing.T) {
	write := func(ratio float64) string {
		p := &result.Report{Format: result.Format}
		for name, v := range map[string]float64{result.Baseline: 10, "sluice": 10 * ratio} {
			p.Rows = append(p.Rows, &result.Row{
				Section: result.Cold, System: name, Measures: map[result.Measure][]float64{result.Total: {v}},
			})
		}
		dir := t.TempDir()
		if err := p.Write(filepath.Join(dir, "report.json")); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	old := filepath.Join(write(0.2), "report.json")
	if err := compare(settings{compare: old, out: write(0.23)}); err != nil {
		t.Error(err)
	}
	if err := compare(settings{compare: old, out: write(0.25)}); err == nil {
		t.Error("a quarter more is no difference")
	}
	if err := compare(settings{compare: old, out: t.TempDir()}); !os.IsNotExist(err) && err == nil {
		t.Error("compared with nothing")
	}
}
