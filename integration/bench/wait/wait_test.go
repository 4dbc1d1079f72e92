package wait

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/start"
	"github.com/sluice-snapshotter/sluice/integration/stack"
	"github.com/sluice-snapshotter/sluice/integration/stream"
)

func TestMain(m *testing.M) { os.Exit(stack.Isolate(m.Run)) }

func TestRun(t *testing.T) {
	o := Options{
		Link: start.Link{Latency: 10 * time.Millisecond, Bandwidth: 100e6}, Repeat: 2, Progress: t.Logf, chunks: 64, misses: 5,
	}
	rows, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].System != result.WaitBaseline || rows[1].Baseline() != result.WaitBaseline {
		t.Fatalf("rows: %+v", rows)
	}
	for _, r := range rows {
		if !r.OK() {
			t.Fatalf("%s: %q", r.Name(), r.Failed)
		}
		for i := range o.Repeat {
			p50, p95 := r.Measures[result.WaitMedian][i], r.Measures[result.WaitP95][i]
			if p50 < o.Link.Latency.Seconds() || p95 < p50 {
				t.Errorf("%s: median %f s, 95 of 100 %f s", r.Name(), p50, p95)
			}
		}
	}
	if n := result.Summarize(rows[0].Measures[result.Present]).Max; n > 0 {
		t.Errorf("without background %f chunks were there", n)
	}
}

// TestTooFew asks for more misses than there are chunks.
func TestTooFew(t *testing.T) {
	o := Options{Link: start.Link{Latency: time.Millisecond}, Repeat: 2, Progress: t.Logf, chunks: 2, misses: 3}
	rows, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.OK() || len(r.Failed) != 1 {
			t.Errorf("%+v", r)
		}
	}
}

func TestReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := f.WriteAt([]byte{0, 0, 0, 0, 0, 0, 0, byte(i)}, int64(i)*stream.ChunkBytes); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(3 * stream.ChunkBytes); err != nil {
		t.Fatal(err)
	}
	all := func() (err error) {
		r, err := open(path, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		for range 3 {
			if _, err = r.next(); err != nil {
				return err
			}
		}
		if _, err := r.next(); err == nil || !strings.Contains(err.Error(), "every chunk") {
			t.Errorf("a fourth chunk: %v", err)
		}
		return nil
	}
	if err := all(); err != nil {
		t.Error(err)
	}
	if _, err := f.WriteAt([]byte{1}, stream.ChunkBytes); err != nil {
		t.Fatal(err)
	}
	if err := all(); err == nil || !strings.Contains(err.Error(), "chunk 1 has the content") {
		t.Errorf("wrong content: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestQuantile(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(100-i))
	}
	for _, c := range []struct {
		values []float64
		part   float64
		want   float64
	}{
		{[]float64{3}, 0.95, 3}, {[]float64{2, 1}, 0.5, 1}, {hundred, 0.5, 50}, {hundred, 0.95, 95}, {hundred, 1, 100},
	} {
		if got := quantile(c.values, c.part); got != c.want {
			t.Errorf("%v of %d values: %v, want %v", c.part, len(c.values), got, c.want)
		}
	}
}
