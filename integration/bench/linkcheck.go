package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/bench/prepare"
	"github.com/sluice-snapshotter/sluice/integration/bench/start"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
)

// sample is how many bytes of a blob are read at most to see what a link does.
const sample = 32 << 20

// checkLink puts into the report what one plain GET gets through a link, the first time that it is used: the proxy and the registry have
// only this machine's processors.
func (b *suite) checkLink(ctx context.Context, m *prepare.Maker, l start.Link, s subject) error {
	name := "link " + l.String()
	if b.report.Setup.Settings[name] != "" {
		return nil
	}
	var largest ocispec.Descriptor
	for _, layer := range s.Image.Manifest.Layers {
		if layer.Size > largest.Size {
			largest = layer
		}
	}
	m.Registry.Link.Shape(l.Latency, l.Bandwidth)
	defer m.Registry.Link.Shape(0, 0)
	url := fmt.Sprintf("http://%s/v2/bench/%s/blobs/%s", m.Registry.Link.Addr(), s.Name, largest.Digest)
	first, rate, err := get(ctx, url)
	if err != nil {
		return fmt.Errorf("check %s of %s: %w", name, m.Ref(s.Name, system.Plain), err)
	}
	b.report.Setup.Settings[name] = fmt.Sprintf("one GET: %.1f ms until the answer, then %.0f MB/s", first.Seconds()*1e3, rate/1e6)
	return nil
}

// get reads the beginning of what is at url, and returns the time until the answer began and the bytes per second after that.
func get(ctx context.Context, url string) (first time.Duration, rate float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	first = time.Since(begin)
	if resp.StatusCode != http.StatusOK {
		return 0, 0, fmt.Errorf("%s: %s", url, resp.Status)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, sample))
	return first, float64(n) / (time.Since(begin) - first).Seconds(), err
}
