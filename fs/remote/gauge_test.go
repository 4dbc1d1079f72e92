package remote

import (
	"io"
	"math"
	"net/http"
	"testing"
	"time"
)

func TestGaugeRTT(t *testing.T) {
	var g gauge
	if l := g.link(); l != (Link{}) {
		t.Errorf("from nothing: %+v", l)
	}
	now := time.Now()
	answer := func(n int, d time.Duration) {
		for range n {
			g.answer(now, d)
		}
	}
	answer(rttAnswers, 50*time.Millisecond)
	for _, step := range []struct {
		answers         int
		after, is, want time.Duration
	}{
		{100, rttTime / 2, 70, 50}, // the least stays for its time
		{1, rttTime / 2, 70, 50},   // and for that of the next window
		{1, rttTime - 1, 70, 50},   // however many come in it
		{rttAnswers, 0, 70, 50},
		{1, rttTime, 70, 70},
		{1, 0, 9, 9},
	} {
		now = now.Add(step.after)
		answer(step.answers, step.is*time.Millisecond)
		if got := g.link().RTT; got != step.want*time.Millisecond {
			t.Errorf("%v after %+v", got, step)
		}
	}
}

// A step of a reader: it waits and gets bytes, then does something else.
type step struct {
	wait, pause time.Duration
	n           int
}

func TestGaugeRate(t *testing.T) {
	const ms = time.Millisecond
	const mb = 1 << 20
	tests := []struct {
		name    string
		readers int
		times   int
		step    step
		want    float64 // MiB/s
	}{
		{"too little to tell", 1, 4, step{wait: 10 * ms, n: mb}, 0},
		{"one reader", 1, 20, step{wait: 10 * ms, n: mb}, 100},
		{"several together", 4, 20, step{wait: 10 * ms, n: mb}, 400},
		{"a reader that decodes meanwhile", 1, 20, step{5 * ms, 5 * ms, mb}, 100},
		{"a reader that pauses", 1, 20, step{10 * ms, time.Second, mb}, 100},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var g gauge
			now := time.Now()
			for range test.readers {
				g.open(now)
			}
			for range test.times {
				for range test.readers {
					g.begin(now)
				}
				now = now.Add(test.step.wait)
				for range test.readers {
					g.end(now, test.step.n)
				}
				now = now.Add(test.step.pause)
			}
			if got := g.link().Rate / mb; math.Abs(got-test.want) > test.want/10 {
				t.Errorf("%.1f MiB/s, want %.1f", got, test.want)
			}
		})
	}
	t.Run("follows the link", func(t *testing.T) {
		var g gauge
		now := time.Now()
		g.open(now)
		for _, rate := range []float64{100, 10, 200} {
			for range 400 { // 4 s
				g.begin(now)
				now = now.Add(10 * ms)
				g.end(now, int(rate*mb/100))
			}
			if got := g.link().Rate / mb; math.Abs(got-rate) > rate/5 {
				t.Errorf("%.1f MiB/s, want %.1f", got, rate)
			}
		}
	})
	t.Run("between bodies nothing counts", func(t *testing.T) {
		var g gauge
		now := time.Now()
		for range 20 {
			g.open(now)
			g.begin(now)
			now = now.Add(10 * ms)
			g.end(now, mb)
			g.close(now)
			now = now.Add(8 * ms)
		}
		if got := g.link().Rate / mb; math.Abs(got-100) > 10 {
			t.Errorf("%.1f MiB/s", got)
		}
	})
}

// BenchmarkRead is what reading costs beside the network: pieces of 32 KiB of one range, all of which are there.
func BenchmarkRead(b *testing.B) {
	r := New(Options{})
	at := &site{pacer: pacer{registry: r, epoch: r.clock.now()}}
	resp := &response{dog: watch(b.Context(), r.clock, time.Hour), slot: &slot{pacer: &at.pacer}, site: at}
	resp.Response = &http.Response{Body: io.NopCloser(endless{})}
	body := &body{resp: resp, from: &endpoint{registry: r}, left: math.MaxInt64}
	p := make([]byte, 32<<10)
	for b.Loop() {
		if _, err := body.Read(b.Context(), p); err != nil {
			b.Fatal(err)
		}
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestLink(t *testing.T) {
	p := content(1 << 20)
	b, _, _ := newBlob(t, p, Options{}, nil, nil, status(429))
	if l := b.Link(); l != (Link{}) {
		t.Errorf("before anything was read: %+v", l)
	}
	b.repo.registry.clock = wallClock()
	mustRead(t, b, p, 0, int64(len(p)))
	other, err := b.repo.registry.Blob(testRef, b.subject.digest, 0)
	if err != nil {
		t.Fatal(err)
	}
	if l := other.Link(); l.RTT <= 0 || l.RTT > time.Second || l.Requests != 0 || l != b.Link() {
		t.Errorf("%+v", l)
	}
	mustRead(t, b, p, 0, 100)
	mustRead(t, b, p, 0, 100)
	if l := other.Link(); l.Requests != 1 {
		t.Errorf("after 429: %+v", l)
	}
}
