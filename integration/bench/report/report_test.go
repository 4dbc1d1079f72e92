package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// TestWrite looks at one report from all sides, because drawing takes long under -race.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	if keep := os.Getenv("SLUICE_REPORT_SAMPLE"); keep != "" { // to look at
		dir = keep
	}
	if err := Write(sample(), dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	t.Run("text", func(t *testing.T) { checkText(t, text) })
	t.Run("failed rows have no figures", func(t *testing.T) { checkFailed(t, dir, text) })
	t.Run("not ahead", func(t *testing.T) { checkNotAhead(t, text) })
	t.Run("plots", func(t *testing.T) { checkPlots(t, dir, text) })
	t.Run("same report, same bytes", func(t *testing.T) { checkSame(t, dir) })
}

func checkText(t *testing.T, text string) {
	t.Helper()
	for name, want := range map[string]string{
		"date":                   "# Benchmarks, 2026-02-03\n",
		"versions":               "| containerd | v2.4.2 |\n| gunzip of containerd | igzip |\n| runc | 1.4\\|x |\n",
		"who is ahead":           "| redis | 4.00 | **1.00, 0.25×** | 5.00, 1.25× | – | 3.00, 0.75× |\n",
		"totals, failed":         "| py\\|thon | 40.0 | **10.0, 0.25×** | 10.0, 0.25× | FAILED 1 of 3 | 20.0, 0.50× |\n",
		"times":                  "| sluice | 0.500 (0.450–0.550) | 0.500 (0.450–0.550) | **1.00 (0.900–1.10)** | 0.25× | 0.500 (20.0 MB, 10 trips) | 2.00× |\n",
		"no ratio to itself":     "| overlayfs | 2.00 (1.80–2.20) | 2.00 (1.80–2.20) | **4.00 (3.60–4.40)** | 1.00× | 0.500 (20.0 MB, 10 trips) | 8.00× |\n",
		"failed row":             "| sluice zstd | FAILED 1 of 3: exit 1 \\| no space left |  |  |  |  |  |\n",
		"costs":                  "| sluice | 12.0 (10.8–13.2), 0.25× | 30 (27–33) | 90.0, 1.00× | – | 6.00 | 0.100 (0.090–0.110), 0.25× | 50.0 (45.0–55.0) | 60.0 (54.0–66.0), 1.00× | – |",
		"costs of the baseline":  "| overlayfs | 48.0 (43.2–52.8) | 30 (27–33) | 90.0 | – | 24.0 | 0.400 (0.360–0.440) | – | 60.0 (54.0–66.0) | – |",
		"costs not measured":     "| sluice | – | – | – | – | – | 1.00 (1.00–3.00), 1.00× | – | – | – | – |\n",
		"means":                  "| sluice | 0.500 (0.500–1.50), mean 0.550 | 0.500 (0.500–1.50), mean 0.550 | **1.00 (1.00–3.00), mean 1.10** | 0.25× | – | – |\n",
		"why means":              "**4.00 (4.00–12.0), mean 4.40** | 1.00× | – | – |\n\nMeans are beside",
		"at once":                "| overlayfs | 4.00 (3.60–4.40) | 4.00 (3.60–4.40) | **8.00 (7.20–8.80)** | 1.00× | 0.500 (20.0 MB, 10 trips) | 16.0× |\n\n" + atOnceText,
		"memory after reading":   "| MB | complete, cold |\n|---|---:|\n| sluice | 80.0 (72.0–88.0) |\n\n",
		"what to keep in mind":   "- Prefetch lists are recorded from the very command",
		"decompression":          "are faster; the setup says which it was.\n",
		"more is better":         "### sequential read, MB/s\n\nMore is better",
		"throughput":             "| sluice | 900 (810–990), 0.90× | 500 (450–550), 1.00× |\n",
		"steady failed":          "| peer\\|one | FAILED 3 of 3 | – |\n",
		"steady reason":          "- peer\\|one, complete, cold: FAILED 3 of 3: mount: \\_\\_no\\_\\_\n",
		"incomplete layers":      "| s | complete, cold | incomplete, cold |\n|---|---:|---:|\n| overlayfs | 2.00 (1.80–2.20) | 2.00 (1.80–2.20) |\n| sluice | 1.00 (0.900–1.10), 0.50× | 1.50 (1.35–1.65), 0.75× |\n",
		"operations":             "### random 4 KiB read, operations/s\n",
		"scaling sorted by X":    "| s | 1 | 10 | 100 |\n",
		"scaling floor":          "| s | 1 | 10 | 100 |\n|---|---:|---:|---:|\n| overlayfs | 4.00× of 0.500 (20.0 MB, 10 trips) |",
		"scaling floor, failed":  "| peer\\|one | 3.00× of 0.500 (20.0 MB, 10 trips) | – | 6.00× of 0.500 (20.0 MB, 10 trips) |\n",
		"scaling ratio":          "| sluice | 1.00 (0.900–1.10), 0.50× | 1.20 (1.08–1.32), 0.060× |",
		"waits":                  "| sluice esgz | 0.050 (0.045–0.055), 1.00× | 0.120 (0.108–0.132), 1.50× | 10.0 (9.00–11.0) | 90.0 (81.0–99.0) |\n",
		"waits, what to compare": "| sluice esgz, background off | 0.050 (0.045–0.055) | 0.080 (0.072–0.088) | 10.0",
		"waits, failed":          "### random chunks, 10 ms; 100 MB/s\n\n| system | median wait, s | 95 of 100 wait at most, s | reads that found it there | through the link meanwhile, MB/s |\n|---|---:|---:|---:|---:|\n| sluice esgz | FAILED 1 of 4 | FAILED 1 of 4 | – | – |\n\n- sluice esgz, ",
		"pull":                   "pull, s:\n\n| s | 1 | 10 | 100 |\n",
		"behind":                 "- cold/redis/10 ms, 100 MB/s/sluice esgz: 5.00 s; ahead: peer\\|one 3.00 s (1.67×), overlayfs 4.00 s (1.25×)\n",
		"ranges overlap":         "- steady/sequential read/complete, cold/sluice: 900 MB/s; level with overlayfs 1000 MB/s (0.90×)\n",
		"a tie":                  "- steady/sequential read/complete, warm/sluice: 500 MB/s; level with overlayfs 500 MB/s (1.00×)\n",
		"more of something":      "needs least: 1\n\n- cold/redis/10 ms, 100 MB/s/sluice esgz: 60.0 MB until ready (peer\\|one 36.0), 0.500 s of CPU (peer\\|one 0.300)\n\n",
		"failed is not ahead":    "- cold/py\\|thon/10 ms, 100 MB/s/sluice zstd: FAILED 1 of 3: exit 1 \\| no space left\n",
		"count of what is ahead": "## Not ahead\n\n",
		"ahead":                  "Sluice is ahead of all others in 14 rows, in 5 of which there is another than overlayfs; in 1 there is none to compare with.\n\n",
		"behind or failed":       "Rows in which another is ahead, or Sluice failed: 4\n\n",
		"level":                  "Rows in which Sluice is level with another, and none is ahead: 2\n\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s: no %q", name, want)
		}
	}
}

// A run that did not end has no time of its end.
func TestUnfinished(t *testing.T) {
	p := &result.Report{Started: sample().Started}
	whole, partial := &document{report: sample()}, &document{report: p}
	whole.head()
	partial.head()
	text := partial.text.String()
	for _, want := range []string{"# Benchmarks, 2026-02-03 (partial)\n\n", "**This report is partial: the run that began at 2026-02-03 04:05 UTC did not end"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	if strings.Contains(text, "0001") || strings.Contains(text, "Measured from") {
		t.Errorf("it shows a time at which it ended: %s", text)
	}
	text = whole.text.String()
	if strings.Contains(text, "partial") || !strings.Contains(text, "Measured from 2026-02-03 04:05 UTC to 2026-02-03 07:08 UTC. ") {
		t.Errorf("it ended: %s", text)
	}
}

// The values of rows that failed are such that no other row has them.
func checkFailed(t *testing.T, dir, text string) {
	t.Helper()
	for _, leak := range []string{"7777", "0.0078"} {
		if strings.Contains(text, leak) {
			t.Errorf("report.md shows a figure of a failed row: %s", leak)
		}
	}
	for _, name := range glob(t, dir, "*.svg") {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("7777")) {
			t.Errorf("%s shows a figure of a failed row", name)
		}
	}
}

func checkNotAhead(t *testing.T, text string) {
	t.Helper()
	list := text[strings.Index(text, "## Not ahead"):]
	for _, name := range []string{"redis/10 ms, 100 MB/s/sluice:", "random 4 KiB read", "find", "other machine"} {
		if strings.Contains(list, name) {
			t.Errorf("%s is in the list: %s", name, list)
		}
	}
	if n := strings.Count(list, "\n- "); n != 7 {
		t.Errorf("%d lines: %s", n, list)
	}
}

func checkPlots(t *testing.T, dir, text string) {
	t.Helper()
	links := regexp.MustCompile(`\]\(([^)]+\.(?:svg|png))\)`).FindAllStringSubmatch(text, -1)
	if len(links) != 2*7 {
		t.Errorf("%d links", len(links))
	}
	linked := make(map[string]bool)
	for _, m := range links {
		linked[m[1]] = true
		checkPlot(t, filepath.Join(dir, m[1]))
	}
	for _, name := range append(glob(t, dir, "*.svg"), glob(t, dir, "*.png")...) {
		if !linked[filepath.Base(name)] {
			t.Errorf("%s is not linked", name)
		}
	}
	for _, name := range []string{"cold-10-ms-100-mb-s.svg", "cold-10-ms-100-mb-s-2.svg", "steady-throughput.png", "scaling-layers.svg"} {
		if !linked[name] {
			t.Errorf("no %s", name)
		}
	}
	charts, err := os.ReadFile(filepath.Join(dir, "steady-time.svg"))
	for name, want := range map[string]bool{"find: incomplete, cold": true, "tar: incomplete, cold": false} {
		if err != nil || bytes.Contains(charts, []byte(name)) != want {
			t.Errorf("a chart of %s: %v, %v", name, !want, err)
		}
	}
}

func checkPlot(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Ext(name) == ".png" {
		if picture, err := png.Decode(bytes.NewReader(b)); err != nil || picture.Bounds().Dx() != 1500 {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	if !bytes.Contains(b, []byte("Liberation Sans,Arial")) || bytes.Contains(b, []byte("href=")) || bytes.Contains(b, []byte("NaN")) {
		t.Errorf("%s does not stand for itself", name)
	}
	tokens := xml.NewDecoder(bytes.NewReader(b))
	for err == nil {
		_, err = tokens.Token()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("%s: %v", name, err)
	}
}

func checkSame(t *testing.T, first string) {
	t.Helper()
	second := t.TempDir()
	if err := Write(sample(), second); err != nil {
		t.Fatal(err)
	}
	for _, name := range glob(t, first, "*") {
		a, err := os.ReadFile(name)
		b, err2 := os.ReadFile(filepath.Join(second, filepath.Base(name)))
		if err != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v, %v", name, err, err2)
		}
	}
}

func TestWriteFails(t *testing.T) {
	if err := Write(sample(), filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: nothing there: %v", pattern, err)
	}
	return names
}

// Nothing to compare, nothing that succeeded, and zeros are reports too.
func TestWriteWithLittle(t *testing.T) {
	zero := scalingRow("layers", 1, "sluice", 0)
	for name, rows := range map[string][]*result.Row{
		"nothing": nil,
		"failed": {
			failed(coldRow("redis", slow, "sluice", leak), "no"), failed(scalingRow("layers", 1, "sluice", leak), "no"),
			failed(steadyRow("find", "complete, cold", "sluice", result.Seconds, leak), "no"),
		},
		"zeros":        {zero, coldRow("redis", slow, "sluice", 0), steadyRow("find", "warm", "sluice", result.Rate, 0)},
		"not measured": {{Section: result.Cold, Subject: "redis", Case: slow, System: "sluice"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := Write(&result.Report{Rows: rows}, dir); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(dir, "report.md"))
			if err != nil || bytes.Contains(b, []byte("7777")) || bytes.Contains(b, []byte("NaN")) {
				t.Errorf("%v in\n%s", err, b)
			}
		})
	}
}
