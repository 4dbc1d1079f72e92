package layer

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-snapshotter/sluice/cache"
)

// TestProveFails: without the registry there is no proof, and no harm.
func TestProveFails(t *testing.T) {
	h := open(t, testLayer(), keepSkeleton)
	if _, err := h.Prove(t.Context(), is("")); !errors.Is(err, cache.ErrIncomplete) {
		t.Errorf("of an incomplete layer: %v", err)
	}
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	down := errors.New("registry is down")
	h.blob.answer(func(context.Context, int, request) (io.ReadCloser, error) { return nil, down })
	if _, err := h.Prove(t.Context(), is("")); !errors.Is(err, down) {
		t.Errorf("error %v", err)
	}
	h.blob.answer(nil)
	h.mustProve()
}

// TestProveStops: a proof ends with its context, and with its layer.
func TestProveStops(t *testing.T) {
	for name, stop := range map[string]func(h *harness, cancel func()){
		"context": func(_ *harness, cancel func()) { cancel() },
		"layer":   func(h *harness, _ func()) { h.end(ErrClosed) },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, testLayer(), keepSkeleton)
			if err := h.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			asked := make(chan struct{})
			h.blob.answer(func(ctx context.Context, n int, q request) (io.ReadCloser, error) {
				if n == 0 {
					close(asked)
				}
				return h.blob.stalled(ctx, q, nil), nil
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error)
			go func() {
				_, err := h.Prove(ctx, is(""))
				done <- err
			}()
			<-asked
			stop(h, cancel)
			if err := <-done; err == nil {
				t.Error("no error")
			}
			h.close()
		})
	}
}

// TestProveSilent: a proof that waits for a registry that hangs leaves its place to others, and is back when that answers.
func TestProveSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{TailMemory: -1, Concurrency: 1})
		h := open(t, testLayer(), func(o *Options) { o.Scheduler, o.Ref = s, hungImage })
		if err := h.Fill(t.Context()); err != nil {
			t.Fatal(err)
		}
		ready := make(chan struct{})
		hang(h.blob, ready)
		var proof sync.WaitGroup
		proof.Go(h.mustProve)
		time.Sleep(silentGrace)
		synctest.Wait()
		other := readAtOnce(t, smallLayer(), s)
		must(0, other.Close())
		close(ready)
		proof.Wait()
		must(0, h.Close())
		(&line{t: t, gate: s.ranges}).empty()
	})
}

// TestProveStalled: a registry that hangs keeps nobody else's layer from being proven.
func TestProveStalled(t *testing.T) {
	h := open(t, testLayer(), keepSkeleton)
	other := open(t, smallLayer(), func(o *Options) {
		keepSkeleton(o)
		o.Scheduler = h.scheduler
	})
	for _, one := range []*harness{h, other} {
		if err := one.Fill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	asked, release := make(chan struct{}), make(chan struct{})
	h.blob.answer(func(ctx context.Context, n int, q request) (io.ReadCloser, error) {
		if n == 0 {
			close(asked)
		}
		return h.blob.stalled(ctx, q, release), nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.mustProve()
	}()
	<-asked
	other.mustProve()
	close(release)
	<-done
}

// TestProveShares: who hashes much gives others their turn.
func TestProveShares(t *testing.T) {
	h := open(t, testLayer(), keepSkeleton)
	large, other := h.prover(), h.prover()
	must(0, large.hold())
	turns := make(chan struct{})
	go func() {
		defer close(turns)
		must(0, other.hold())
		other.release()
	}()
	for range 1000 { // until the other waits, and then for two shares at most
		must(0, large.spend(proofShare/8))
		select {
		case <-turns:
			large.release()
			return
		case <-time.After(time.Millisecond):
		}
	}
	t.Error("the other one never has its turn")
	large.release()
	<-turns
}

// prover is one that hashes nothing.
func (h *harness) prover() *prover {
	return &prover{Layer: h.Layer, ctx: h.t.Context(), data: &dataWindow{}, patience: patience}
}
