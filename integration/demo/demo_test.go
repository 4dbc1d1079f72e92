package main

import (
	"strings"
	"testing"
	"time"
)

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		want settings
		err  string
	}{
		{"defaults", nil, settings{20 * time.Millisecond, 50_000_000, "", 5}, ""},
		{
			"all", map[string]string{"LATENCY": "1ms", "BANDWIDTH": "1.5GiB/s", "IMAGE": "docker.io/library/redis:7", "RUNS": "1"},
			settings{time.Millisecond, 3 << 29, "docker.io/library/redis:7", 1}, "",
		},
		{"kilobytes", map[string]string{"BANDWIDTH": "500k"}, settings{20 * time.Millisecond, 500_000, "", 5}, ""},
		{"latency", map[string]string{"LATENCY": "20"}, settings{}, "LATENCY=20"},
		{"negative latency", map[string]string{"LATENCY": "-1s"}, settings{}, "LATENCY=-1s"},
		{"bandwidth", map[string]string{"BANDWIDTH": "fast"}, settings{}, "BANDWIDTH=fast"},
		{"no bandwidth", map[string]string{"BANDWIDTH": "0"}, settings{}, "BANDWIDTH=0"},
		{"repeat", map[string]string{"RUNS": "0"}, settings{}, "RUNS=0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readSettings(func(name string) string { return c.env[name] })
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want an error with %q", err, c.err)
				}
				return
			}
			if err != nil || got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestTable(t *testing.T) {
	samples := map[string][]sample{
		"overlayfs": {{4, 1, 60, 20, 60, "out\n"}, {6, 1, 60, 20, 60, "out\n"}, {5, 2, 60, 20, 60, "out\n"}},
		"sluice":    {{1, 0.5, 12, 30, 6, "out\n"}, {1, 0.75, 12, 30, 6, "out\n"}, {2, 0.5, 12, 30, 6, "out\n"}},
	}
	got := table(settings{20 * time.Millisecond, 50_000_000, "", 3}, pair{name: "an image"}, samples)
	for _, want := range []string{
		"an image, `out`\n",
		"| median of 3 (range) |",
		"| pull, s | 5.00 (4.00–6.00) | 1.00 (1.00–2.00) | 0.20 |\n",
		"| **total, s** | 7.00 (5.00–7.00) | 1.75 (1.50–2.50) | 0.25 |\n",
		"| of them for demand and prefetch | 60.0 (60.0–60.0) | 6.0 (6.0–6.0) | 0.10 |\n",
		"Link: 20ms for each request, 50 MB/s",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if got := median([]float64{1, 2, 4, 8}); got != 3 {
		t.Errorf("median of an even number: %v", got)
	}
}
