package result

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// row has one value of Total for each argument, and none without.
func row(system string, totals ...float64) *Row {
	r := &Row{Section: Cold, Subject: "redis", Case: "loopback", System: system}
	for _, v := range totals {
		r.Add(map[Measure]float64{Total: v})
	}
	return r
}

func broken(r *Row) *Row {
	r.Fail(errors.New("exit 1"))
	return r
}

func TestSummarize(t *testing.T) {
	for name, c := range map[string]struct {
		values []float64
		want   Summary
	}{
		"empty": {nil, Summary{}},
		"one":   {[]float64{3}, Summary{1, 3, 3, 3}},
		"odd":   {[]float64{9, 1, 2}, Summary{3, 2, 1, 9}},
		"even":  {[]float64{4, 1, 9, 2}, Summary{4, 3, 1, 9}},
	} {
		before := slices.Clone(c.values)
		if got := Summarize(c.values); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("%s: the values were sorted in place", name)
		}
	}
}

func TestOK(t *testing.T) {
	for name, c := range map[string]struct {
		row  *Row
		want bool
	}{
		"not measured":    {row("sluice"), false},
		"measured":        {row("sluice", 1, 2), true},
		"failed":          {broken(row("sluice")), false},
		"failed one time": {broken(row("sluice", 1, 2)), false},
	} {
		if got := c.row.OK(); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestMainMeasure(t *testing.T) {
	for want, values := range map[Measure]map[Measure]float64{
		Total:      {Total: 1, Seconds: 1, RSS: 1},
		WaitP95:    {WaitMedian: 1, WaitP95: 1, LinkRate: 1},
		Seconds:    {Seconds: 1, Throughput: 1},
		Throughput: {Rate: 1, Throughput: 1},
		Rate:       {Rate: 1, CPU: 1},
	} {
		r := row("sluice")
		r.Add(values)
		if got := r.Main(); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
		if more := want == Throughput || want == Rate; want.More() != more {
			t.Errorf("%s: more is better: %t", want, !more)
		}
	}
	if got := row("sluice").Main(); got != Total {
		t.Errorf("%s for a row without measures", got)
	}
}

func TestRatio(t *testing.T) {
	elsewhere := row(Baseline, 4)
	elsewhere.Case = "10 ms"
	other := row(Baseline)
	other.Add(map[Measure]float64{RSS: 1})
	for name, c := range map[string]struct {
		mine, rival *Row
		want        float64
		ok          bool
	}{
		"medians":               {row("sluice", 1, 2, 9), row(Baseline, 7, 8, 9), 0.25, true},
		"failed":                {broken(row("sluice", 1)), row(Baseline, 4), 0, false},
		"failed rival":          {row("sluice", 1), broken(row(Baseline, 4)), 0, false},
		"rival was elsewhere":   {row("sluice", 1), elsewhere, 0, false},
		"rival lacks it":        {row("sluice", 1), other, 0, false},
		"not measured":          {row("sluice"), row(Baseline, 4), 0, false},
		"rival took no time":    {row("sluice", 1), row(Baseline, 0), 0, false},
		"the baseline's itself": {row(Baseline, 4), row(Baseline, 4), 1, true},
	} {
		p := &Report{Rows: []*Row{c.mine, c.rival}}
		if got, ok := p.Ratio(c.mine, Total); got != c.want || ok != c.ok {
			t.Errorf("%s: %g, %t", name, got, ok)
		}
	}
}

// TestWaitRatio compares rows of Wait with the baseline that they have.
func TestWaitRatio(t *testing.T) {
	wait := func(system string, p95 float64) *Row {
		r := &Row{Section: Wait, System: system}
		r.Add(map[Measure]float64{WaitP95: p95})
		return r
	}
	p := &Report{Rows: []*Row{wait(Baseline, 8), wait(WaitBaseline, 2), wait("sluice esgz", 3)}}
	if got, ok := p.Ratio(p.Rows[2], WaitP95); got != 1.5 || !ok {
		t.Errorf("%g, %t", got, ok)
	}
	changes := Compare(p, p)
	if len(changes) != 2 || changes[0].Row.System != Baseline || changes[1].New != 1.5 {
		t.Errorf("%+v", changes)
	}
}

func TestNewFloor(t *testing.T) {
	for name, c := range map[string]struct {
		floor *Floor
		want  float64
	}{
		"transfer is longer": {NewFloor(100e6, 5, 0.5, 0.01, 50e6), 2.05},
		"run is longer":      {NewFloor(10e6, 5, 0.5, 0.01, 50e6), 0.55},
		"no limits":          {NewFloor(100e6, 5, 0.5, 0, 0), 0.5},
	} {
		if math.Abs(c.floor.Seconds-c.want) > 1e-9 {
			t.Errorf("%s: %g", name, c.floor.Seconds)
		}
	}
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	r := broken(row("sluice", 1, 2))
	r.X, r.Floor = 3, NewFloor(1, 2, 3, 4, 5)
	p := &Report{Format: Format, Started: time.Unix(1, 0).UTC(), Finished: time.Unix(2, 0).UTC(), Rows: []*Row{r, row(Baseline)}}
	p.Setup = Setup{Kernel: "6", CPU: "x", CPUs: 2, Memory: 3, Versions: map[string]string{"runc": "1"}}
	if err := errors.Join(os.WriteFile(path, []byte("old"), 0o600), p.Write(path)); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("%+v, %v", got, err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("%d files, %v", len(files), err)
	}
}

func TestReadRefuses(t *testing.T) {
	for text, want := range map[string]string{`{"format": 2}`: "format 2", `{}`: "format 0", `{`: "unexpected end"} {
		path := filepath.Join(t.TempDir(), "report.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	taken := filepath.Join(dir, "report.json") // by a directory, so that the rename fails
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := new(Report).Write(taken); err == nil {
		t.Error("no error")
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("%d files are left, %v", len(files), err)
	}
}
