package link

import (
	"context"
	"sync"
	"time"
)

// burstTime is how much unused bandwidth is remembered: a sleeper that the kernel wakes late catches up, and no more.
const burstTime = 10 * time.Millisecond

// minBurst is the smallest credit in bytes: one piece.
const minBurst = pieceSize

// shape is a latency and a token bucket that all connections share.
type shape struct {
	mu        sync.Mutex
	latency   time.Duration
	bandwidth int64
	free      time.Time // when the line has carried everything reserved so far
}

func newShape(latency time.Duration, bandwidth int64) *shape {
	return &shape{latency: latency, bandwidth: bandwidth}
}

func (s *shape) set(latency time.Duration, bandwidth int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency, s.bandwidth, s.free = latency, bandwidth, time.Time{}
}

// delay waits the latency of one request.
func (s *shape) delay(ctx context.Context) error {
	s.mu.Lock()
	d := s.latency
	s.mu.Unlock()
	return wait(ctx, d)
}

// take waits until the line has carried n more bytes.
func (s *shape) take(ctx context.Context, n int) error {
	return wait(ctx, s.reserve(n, time.Now()))
}

// reserve books n bytes and says how long from now until they are through.
func (s *shape) reserve(n int, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bandwidth <= 0 {
		return 0
	}
	if oldest := now.Add(-s.burst()); s.free.Before(oldest) {
		s.free = oldest
	}
	s.free = s.free.Add(carry(int64(n), s.bandwidth))
	return s.free.Sub(now)
}

// burst is the credit as time on the line.
func (s *shape) burst() time.Duration {
	return max(burstTime, carry(minBurst, s.bandwidth))
}

func carry(n, bandwidth int64) time.Duration {
	return time.Duration(float64(n) / float64(bandwidth) * float64(time.Second))
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
