package fs

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestShare: who waits for what another has begun waits no longer than it likes, and the other goes on.
func TestShare(t *testing.T) {
	n := newNode(t, Options{Mode: FUSE})
	d := digest.FromString("d")
	began, end := make(chan struct{}, 1), make(chan struct{})
	bring := func(ctx context.Context) error {
		began <- struct{}{}
		select {
		case <-end:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	first, leave := context.WithCancel(t.Context())
	results := make(chan error)
	go func() { results <- n.share(first, d, bring) }()
	await(t, "the first", began)
	stop := errors.New("stop")
	second, cancel := context.WithCancelCause(t.Context())
	go func() { results <- n.share(second, d, bring) }()
	cancel(stop)
	if err := <-results; !errors.Is(err, stop) {
		t.Errorf("the second: %v", err)
	}
	leave()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	go func() { results <- n.share(t.Context(), d, bring) }()
	close(end)
	if err := <-results; err != nil {
		t.Errorf("who comes after both: %v", err)
	}
	n.tasks.close()
	if err := n.share(t.Context(), d, bring); !errors.Is(err, errClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// TestSlowSibling: a mount that finds its layer on its way ahead of its turn waits for it no longer than for any other.
func TestSlowSibling(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	r := newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	n.patience = 50 * time.Millisecond
	src := Source{Ref: r.ref, Digest: l.digest, TOCDigest: l.tocDigest, Size: int64(len(l.bytes))}
	r.stall()
	ahead := make(chan error, 1)
	go func() {
		_, err := n.bring(t.Context(), src)
		ahead <- err
	}()
	await(t, "its TOC", r.waiting)
	if err := n.Mount(t.Context(), src); !errors.Is(err, errSlow) {
		t.Errorf("error is %v", err)
	}
	r.release()
	if err := <-ahead; err != nil {
		t.Errorf("the other: %v", err)
	}
	n.patience = bringTimeout
	n.mountLayer(t, src)
	if got := r.asked(l.digest); got != 1 {
		t.Errorf("%d requests", got)
	}
}
