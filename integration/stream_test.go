package integration

import (
	"os"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/stack"
	"github.com/sluice-snapshotter/sluice/integration/stream"
)

const (
	budget     = 256 << 20 // bytes of everything in flight: the daemon's default
	beyond     = 96 << 20  // that the daemon may have besides
	streamed   = 1 << 30
	streamedXL = 4 << 30

	streamLimit = 5 * time.Minute // a busy disk takes its time
)

// streamOf makes and serves an image of so many chunks until the end of the test.
func streamOf(t *testing.T, chunks int) (*stream.Image, *stream.Registry) {
	t.Helper()
	im := must(t, func() (*stream.Image, error) { return stream.New(chunks) })
	reg := must(t, func() (*stream.Registry, error) { return stream.Serve(im) })
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	return im, reg
}

// TestStreamedLayer lets a large layer come as fast as this machine can, and looks at the daemon's peak of resident memory: 1 GiB, and 4 GiB with
// SLUICE_TEST_ALL, for which the disk has to have room.
func TestStreamedLayer(t *testing.T) {
	size := streamed
	if os.Getenv("SLUICE_TEST_ALL") != "" {
		size = streamedXL
	}
	if os.Getenv("SLUICE_RACE") != "" {
		t.Skip("the race detector's memory is several times the daemon's: make test-all runs this test once more without it")
	}
	im, reg := streamOf(t, size/stream.ChunkBytes)
	n := nodeWith(t, stack.NodeOptions{Daemon: &stack.DaemonOptions{TOML: system.Settings}})
	began := time.Now()
	pull(t, n, stack.Container{Ref: reg.Ref()})
	completeWithin(t, n, streamLimit)
	took := time.Since(began)
	u, err := n.SnapshotterUsage()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MB/s, %s of CPU, at most %d MiB resident", int(float64(im.Bytes())/took.Seconds()/1e6), u.CPU.Round(time.Second/10), u.Peak>>20)
	if got := reg.Link.Counts().Total().Bytes; got < im.Bytes() {
		t.Errorf("only %d bytes came, of %d", got, im.Bytes())
	}
	if u.Peak > budget+beyond {
		t.Errorf("%d bytes resident at most, want at most %d", u.Peak, budget+beyond)
	}
}
