package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/remote"
)

// metrics are the daemon's counters, in a registry of their own. No label holds
// the digest of a layer: there is no end to those.
type metrics struct {
	registry       *prometheus.Registry
	fetchBytes     *prometheus.CounterVec   // priority, host
	fetchRequests  *prometheus.CounterVec   // priority, host, code
	fetchSeconds   *prometheus.HistogramVec // priority
	startSeconds   *prometheus.HistogramVec // phase
	reads          *prometheus.CounterVec   // result
	readWait       prometheus.Histogram
	verifyFailures *prometheus.CounterVec // host
	prepare        prometheus.Histogram
	proofs         *prometheus.CounterVec // result
	evictedBytes   prometheus.Counter
	dedup          prometheus.Counter
}

// seconds reach from a read of the data file to a registry that makes one wait.
var seconds = prometheus.ExponentialBuckets(0.001, 2, 16) // 1 ms to 33 s

func newMetrics() *metrics {
	m := &metrics{
		registry:       prometheus.NewRegistry(),
		fetchBytes:     counter("fetch_bytes_total", "Bytes of blobs and manifests that came from registries.", "priority", "host"),
		fetchRequests:  counter("fetch_requests_total", "Answers of registries, by HTTP status.", "priority", "host", "code"),
		fetchSeconds:   histogram("fetch_seconds", "Time from asking for a range to having stored its chunks.", "priority"),
		startSeconds:   histogram("start_seconds", "Where the time of starts went: in resolving layers, and in the ranges that a reader or a start waited for.", "phase"),
		reads:          counter("reads_total", "Reads of layers that reached the daemon: hit if the store had it all, miss if not.", "result"),
		readWait:       histogram("read_wait_seconds", "What readers waited for missing chunks.").WithLabelValues().(prometheus.Histogram),
		verifyFailures: counter("verify_failures_total", "Chunks that did not have their digest, by the host that sent them.", "host"),
		proofs:         counter("proofs_total", "Lazy layers that were compared, as a whole, with what their images say: proven, or refused.", "result"),
		evictedBytes:   counter("cache_evicted_bytes_total", "Bytes that were taken from the disk for want of room.").WithLabelValues(),
		dedup:          counter("dedup_bytes_total", "Uncompressed bytes of chunks that were copied from other layers of the store, and not fetched.").WithLabelValues(),
		prepare:        histogram("prepare_seconds", "Duration of Prepare calls.").WithLabelValues().(prometheus.Histogram),
	}
	m.registry.MustRegister(m.fetchBytes, m.fetchRequests, m.fetchSeconds, m.startSeconds, m.reads, m.readWait, m.verifyFailures, m.prepare, m.proofs, m.evictedBytes, m.dedup,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	m.zero()
	return m
}

// evicted counts what the layer store has given up.
func (m *metrics) evicted(bytes int64) { m.evictedBytes.Add(float64(bytes)) }

// zero makes what is counted by label values that are known: a rate needs a zero
// to start from.
func (m *metrics) zero() {
	for _, r := range []layer.Result{layer.Hit, layer.Miss, layer.Failed} {
		m.reads.WithLabelValues(string(r))
	}
	for _, p := range []layer.Priority{layer.Background, layer.Prefetch, layer.Demand} {
		m.fetchSeconds.WithLabelValues(p.String())
	}
	for _, right := range []bool{true, false} {
		m.proofs.WithLabelValues(proofResult(right))
	}
	m.startSeconds.WithLabelValues(resolvePhase)
	for phase := range phases(layer.Range{}) {
		m.startSeconds.WithLabelValues(phase)
	}
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "sluice", Name: name, Help: help}, labels)
}

func histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "sluice", Name: name, Help: help, Buckets: seconds}, labels)
}

// observer counts what happens in layers.
func (m *metrics) observer() layer.Observer {
	return layer.Observer{
		Read:          func(r layer.Result) { m.reads.WithLabelValues(string(r)).Inc() },
		ReadWait:      func(d time.Duration) { m.readWait.Observe(d.Seconds()) },
		VerifyFailure: func(host string) { m.verifyFailures.WithLabelValues(host).Inc() },
		Fetched:       m.fetched,
		Copied:        func(bytes int64) { m.dedup.Add(float64(bytes)) },
	}
}

func (m *metrics) fetched(r layer.Range) {
	total := r.Wait + r.Network + r.Decompress + r.Disk
	m.fetchSeconds.WithLabelValues(r.Priority.String()).Observe(total.Seconds())
	if r.Priority == layer.Background {
		return
	}
	for phase, d := range phases(r) {
		m.startSeconds.WithLabelValues(phase).Observe(d.Seconds())
	}
}

// resolved observes what it took to learn what a layer is.
func (m *metrics) resolved(d time.Duration) {
	m.startSeconds.WithLabelValues(resolvePhase).Observe(d.Seconds())
}

// proved counts what became of a proof.
func (m *metrics) proved(right bool) { m.proofs.WithLabelValues(proofResult(right)).Inc() }

func proofResult(right bool) string {
	if right {
		return "proven"
	}
	return "refused"
}

// resolvePhase is the phase of start_seconds before there are ranges.
const resolvePhase = "resolve"

// phases are the times of a range, by the label of start_seconds.
func phases(r layer.Range) map[string]time.Duration {
	return map[string]time.Duration{"wait": r.Wait, "network": r.Network, "decompress": r.Decompress, "disk": r.Disk}
}

// trace counts what happens on the wire.
func (m *metrics) trace() remote.Trace {
	return remote.Trace{
		Response: func(ctx context.Context, host string, code int) {
			m.fetchRequests.WithLabelValues(layer.PriorityFrom(ctx).String(), host, strconv.Itoa(code)).Inc()
		},
		Bytes: func(ctx context.Context, host string, n int) {
			m.fetchBytes.WithLabelValues(layer.PriorityFrom(ctx).String(), host).Add(float64(n))
		},
	}
}

// prepareMethod is Prepare of containerd's api/services/snapshots/v1.
const prepareMethod = "/containerd.services.snapshots.v1.Snapshots/Prepare"

// intercept measures gRPC calls.
func (m *metrics) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, call grpc.UnaryHandler) (any, error) {
	if info.FullMethod == prepareMethod {
		begin := time.Now()
		defer func() { m.prepare.Observe(time.Since(begin).Seconds()) }()
	}
	return call(ctx, req)
}

// handler serves the metrics and the profiles.
func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func listenMetrics(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return l, nil
}
