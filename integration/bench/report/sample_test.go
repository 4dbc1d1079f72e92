package report

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// leak is the value of failed rows, which must show up nowhere.
const leak = 7777

const (
	slow = "10 ms, 100 MB/s"
	like = "10 ms; 100 MB/s" // has the same file name
	peer = "peer|one"
)

// sample has every section, rows that failed, systems that are missing, ties, and names that Markdown would take for something else.
func sample() *result.Report {
	p := &result.Report{
		Format:   result.Format,
		Started:  time.Date(2026, 2, 3, 4, 5, 0, 0, time.UTC),
		Finished: time.Date(2026, 2, 3, 7, 8, 0, 0, time.UTC),
		Setup: result.Setup{
			Kernel: "6.12.0", CPU: "A | B", CPUs: 2, Memory: 8e9, Filesystem: "ext4",
			Versions: map[string]string{"runc": "1.4|x", "containerd": "v2.4.2", "gunzip of containerd": "igzip"},
			Settings: map[string]string{"repetitions": "3", "drop_caches": "yes"},
		},
	}
	p.Rows = slices.Concat(coldRows(), steadyRows(), scalingRows(), waitRows())
	return p
}

// repeated are three repetitions around the middles.
func repeated(r *result.Row, middles map[result.Measure]float64) *result.Row {
	for _, f := range []float64{1.1, 0.9, 1} {
		values := maps.Clone(middles)
		for m := range values {
			values[m] *= f
		}
		r.Add(values)
	}
	return r
}

func failed(r *result.Row, reason string) *result.Row {
	r.Failed = []string{reason}
	return r
}

func coldRow(workload, link, system string, total float64) *result.Row {
	r := &result.Row{Section: result.Cold, Subject: workload, Case: link, System: system}
	r.Floor = result.NewFloor(20e6, 10, 0.4, 0.01, 50e6)
	r.Add(map[result.Measure]float64{result.BytesAll: 90e6, result.All: 6 * total})
	r = repeated(r, map[result.Measure]float64{
		result.Pull: total / 2, result.Run: total / 2, result.Total: total, result.BytesReady: 12e6 * total, result.RequestsReady: 30,
		result.CPU: total / 10, result.ContainerdRSS: 60e6, result.Disk: 100e6,
	})
	if system != result.Baseline {
		r = repeated(r, map[result.Measure]float64{result.RSS: 50e6})
	}
	return r
}

// longRow has many repetitions, whose mean is 1.1 times their median.
func longRow(system string, total float64) *result.Row {
	r := &result.Row{Section: result.Cold, Subject: "redis, 20 in a row", Case: slow, System: system}
	for i := range enough {
		f := 1.0
		if i == 0 {
			f = 3
		}
		r.Add(map[result.Measure]float64{result.Pull: f * total / 2, result.Run: f * total / 2, result.Total: f * total, result.CPU: f})
	}
	return r
}

func coldRows() []*result.Row {
	broken := &result.Row{Section: result.Cold, Subject: "py|thon", Case: slow, System: "sluice zstd", Floor: &result.Floor{Seconds: leak}}
	for range 2 {
		broken.Add(map[result.Measure]float64{result.Pull: leak, result.Run: leak, result.Total: 2 * leak, result.RSS: leak * 1e6})
	}
	return []*result.Row{
		coldRow("redis", slow, peer, 3),
		coldRow("redis", slow, "overlayfs", 4),
		coldRow("redis", slow, "sluice", 1),
		coldRow("redis", slow, "sluice esgz", 5),
		coldRow("py|thon", slow, "overlayfs", 40),
		coldRow("py|thon", slow, "sluice", 10),
		coldRow("py|thon", slow, "sluice esgz", 10),
		failed(broken, "exit 1 | no space\nleft"),
		coldRow("py|thon", slow, peer, 20),
		coldRow("redis", like, "overlayfs", 2),
		coldRow("redis", like, "sluice", 0.02),
		coldRow("other machine", like, "sluice", 1),
		coldRow("redis, 10 at once", slow, "overlayfs", 8),
		coldRow("redis, 10 at once", slow, "sluice", 6),
		longRow("overlayfs", 4),
		longRow("sluice", 1),
	}
}

func steadyRow(operation, state, system string, m result.Measure, value float64) *result.Row {
	r := &result.Row{Section: result.Steady, Subject: operation, Case: state, System: system}
	return repeated(r, map[result.Measure]float64{m: value})
}

func steadyRows() []*result.Row {
	broken := &result.Row{Section: result.Steady, Subject: "sequential read", Case: "complete, cold", System: peer}
	for range 3 {
		broken.Failed = append(broken.Failed, "mount: __no__")
	}
	return []*result.Row{
		broken,
		steadyRow("sequential read", "complete, cold", "overlayfs", result.Throughput, 1000e6),
		steadyRow("sequential read", "complete, cold", "sluice", result.Throughput, 900e6),
		steadyRow("sequential read", "complete, warm", "overlayfs", result.Throughput, 500e6),
		steadyRow("sequential read", "complete, warm", "sluice", result.Throughput, 500e6),
		steadyRow("random 4 KiB read", "complete, cold", "overlayfs", result.Rate, 1000),
		steadyRow("random 4 KiB read", "complete, cold", "sluice", result.Rate, 2000),
		repeated(steadyRow("tar", "complete, cold", "sluice", result.Seconds, 1), map[result.Measure]float64{result.RSS: 80e6}),
		steadyRow("tar", "complete, cold", "overlayfs", result.Seconds, 2),
		failed(repeated(steadyRow("tar", "complete, cold", peer, result.Seconds, leak), map[result.Measure]float64{result.RSS: leak * 1e6}), "no"),
		steadyRow("find", "complete, cold", "overlayfs", result.Seconds, 2),
		steadyRow("find", "complete, cold", "sluice", result.Seconds, 1),
		steadyRow("find", "incomplete, cold", "overlayfs", result.Seconds, 2),
		steadyRow("find", "incomplete, cold", "sluice", result.Seconds, 1.5),
	}
}

func scalingRow(what string, x float64, system string, total float64) *result.Row {
	r := coldRow(what, fmt.Sprint(x), system, total)
	r.Section, r.X = result.Scaling, x
	if what != "layers" {
		r.Floor = nil
	}
	return r
}

func scalingRows() []*result.Row {
	broken := scalingRow("layers", 10, peer, leak)
	return []*result.Row{
		scalingRow("layers", 100, "overlayfs", 50),
		scalingRow("layers", 1, "overlayfs", 2),
		scalingRow("layers", 10, "overlayfs", 20),
		scalingRow("layers", 1, "sluice", 1),
		scalingRow("layers", 10, "sluice", 1.2),
		scalingRow("layers", 100, "sluice", 2),
		scalingRow("layers", 1, peer, 1.5),
		failed(broken, "too many layers"),
		scalingRow("layers", 100, peer, 3),
		scalingRow("containers, one image", 1, "overlayfs", 2),
		scalingRow("containers, one image", 4, "overlayfs", 3),
		scalingRow("containers, one image", 1, "sluice", 1),
		failed(scalingRow("containers, one image", 4, "sluice", leak), "stalled"),
	}
}

func waitRow(system string, p95 float64) *result.Row {
	r := &result.Row{Section: result.Wait, Subject: "random chunks", Case: slow, System: system}
	return repeated(r, map[result.Measure]float64{result.WaitMedian: 0.05, result.WaitP95: p95, result.Present: 10, result.LinkRate: 90e6})
}

func waitRows() []*result.Row {
	broken := waitRow("sluice esgz", leak)
	broken.Case = like
	return []*result.Row{waitRow(result.WaitBaseline, 0.08), waitRow("sluice esgz", 0.12), failed(broken, "all of it had come")}
}
