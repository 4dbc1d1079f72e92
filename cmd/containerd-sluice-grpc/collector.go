package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
	"github.com/sluice-snapshotter/sluice/fs/layer"
)

// collector reads at each scrape what the parts know of themselves.
type collector struct {
	parts                                                                            *parts
	layers, unproven, mounts, cached, most, pinned, denied, trouble, in, limit, held *prometheus.Desc
}

// collect adds the gauges.
func (m *metrics) collect(p *parts) {
	m.registry.MustRegister(&collector{
		parts:    p,
		layers:   gauge("layers", "Mounted layers.", "state"),
		unproven: gauge("layers_unproven", "Mounted layers that are yet to be compared, as a whole, with what their images say."),
		mounts:   gauge("mounts", "Mounts of layers, by kind.", "mount"),
		cached:   gauge("cache_bytes", "Bytes on disk of the layer store."),
		most:     gauge("cache_limit_bytes", "Most that cache_bytes may be. 0: no limit."),
		pinned:   gauge("cache_pinned_bytes", "Those of cache_bytes that cannot be given up now, because containers use them."),
		denied:   gauge("cache_refused_total", "How often something was not stored because of the limit."),
		trouble:  gauge("cache_trouble", "1 while what is fetched cannot be stored, because the disk is full or fails."),
		in:       gauge("inflight_bytes", "Memory of what is being fetched."),
		limit:    gauge("inflight_limit_bytes", "Most that inflight_bytes may be."),
		held:     gauge("background_held", "Layers whose rest could be fetched and is not: for a limit, for pressure on IO, or for demand.", "reason"),
	})
}

// gauge describes what is read at each scrape.
func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sluice_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.layers, c.unproven, c.mounts, c.cached, c.most, c.pinned, c.denied, c.trouble, c.in, c.limit, c.held} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	layers := map[string]int64{control.StateLazy: 0, control.StateComplete: 0, control.StateFailed: 0}
	mounts := map[string]int64{control.MountEROFS: 0, control.MountEROFSFUSE: 0, control.MountFUSE: 0}
	unproven := int64(0)
	for _, l := range c.parts.fs.Status() {
		if l.Unproven {
			unproven++
		}
		layers[string(l.State)]++
		for _, kind := range l.Mounts {
			mounts[kind]++
		}
	}
	for state, n := range layers {
		send(c.layers, n, state)
	}
	for kind, n := range mounts {
		send(c.mounts, n, kind)
	}
	send(c.unproven, unproven)
	send(c.cached, c.parts.store.Used())
	send(c.most, c.parts.store.Quota().Limit)
	_, pinned := c.parts.fs.Pinned()
	send(c.pinned, pinned)
	out <- prometheus.MustNewConstMetric(c.denied, prometheus.CounterValue, float64(c.parts.store.Denials()))
	trouble := int64(0)
	if c.parts.store.Trouble() != nil {
		trouble = 1
	}
	send(c.trouble, trouble)
	send(c.in, c.parts.scheduler.Inflight())
	send(c.limit, c.parts.scheduler.Limit())
	held, why := c.parts.scheduler.Held()
	for _, reason := range layer.Holds {
		n := int64(0)
		if reason == why {
			n = int64(held)
		}
		send(c.held, n, string(reason))
	}
}
