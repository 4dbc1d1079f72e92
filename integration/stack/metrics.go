package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dto "github.com/prometheus/client_model/go"
)

// Metrics are the daemon's metrics at one moment, by name.
type Metrics map[string]*dto.MetricFamily

// Metrics reads the daemon's metrics endpoint.
func (n *Node) Metrics(ctx context.Context) (Metrics, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.daemon.metrics+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what can be read of the reason
		return nil, fmt.Errorf("metrics: %s: %s", resp.Status, text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(resp.Body)
}

// Sum adds up the counters, gauges or histogram counts of name whose labels are as given; labels not given may have any value.
func (m Metrics) Sum(name string, labels map[string]string) float64 {
	sum := 0.0
	for _, x := range m[name].GetMetric() {
		if matches(x, labels) {
			sum += x.GetCounter().GetValue() + x.GetGauge().GetValue() + float64(x.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// Seconds adds up what was observed in the histogram of name, in all of its series.
func (m Metrics) Seconds(name string) float64 {
	sum := 0.0
	for _, x := range m[name].GetMetric() {
		sum += x.GetHistogram().GetSampleSum()
	}
	return sum
}

func matches(x *dto.Metric, labels map[string]string) bool {
	found := 0
	for _, l := range x.GetLabel() {
		if want, ok := labels[l.GetName()]; ok && want == l.GetValue() {
			found++
		}
	}
	return found == len(labels)
}

// Status is what "ctr-remote status --json" prints.
type Status struct {
	Version string
	PID     int
	Layers  []struct {
		Digest, Image, Format, State, Mount string
		Size, Fetched                       int64
		Mounts                              int
	}
	Cache struct {
		Bytes, Limit int64
		Trouble      string
	}
	Memory struct{ Inflight, Limit int64 }
}

// Status asks the daemon what it serves.
func (n *Node) Status(ctx context.Context) (s Status, err error) {
	text, err := n.CtrRemote(ctx, "status", "--json")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(text), &s)
}

// freePort names a port of 127.0.0.1 that nobody listens on at the moment.
func freePort() (string, error) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}
