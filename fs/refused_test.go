package fs

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r refusals
		name := func(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }
		first := errors.New("first")
		r.keep(name(0), errors.New("before"))
		time.Sleep(refusalTime - 1)
		r.keep(name(0), first)
		time.Sleep(refusalTime - 1)
		if err := r.find(name(0)); !errors.Is(err, first) {
			t.Errorf("got %v", err)
		}
		if time.Sleep(time.Nanosecond); r.find(name(0)) != nil {
			t.Error("it is remembered for ever")
		}
		for i := range maxRefusals + 1 {
			r.keep(name(i), first)
		}
		if len(r.list) != maxRefusals || r.find(name(0)) != nil || r.find(name(1)) == nil || r.find(name(maxRefusals)) == nil {
			t.Errorf("%d are remembered", len(r.list))
		}
	})
}

// TestPlainRefusedOnce: what cannot be taken is fetched once, whoever asks for it.
func TestPlainRefusedOnce(t *testing.T) {
	bad, _ := plainBlob(t, regular("../f", noise(1, 100_000)))
	good, diffID := plainBlob(t, regular("file", noise(2, 1000)))
	r := newRegistry(t, bad, good)
	n := newNode(t, Options{Mode: FUSE})
	for range 3 {
		if err := n.Mount(t.Context(), r.bottom(bad, digest.FromString("any"))); err == nil || !strings.Contains(err.Error(), `".."`) {
			t.Errorf("error is %v", err)
		}
		n.mountLayer(t, r.bottom(good, diffID)) // which brings the others along
		if err := n.Unmount(t.Context(), good.digest); err != nil {
			t.Fatal(err)
		}
	}
	n.tasks.close()
	if got := r.asked(bad.digest); got != 1 {
		t.Errorf("it was asked for %d times", got)
	}
}

// TestRefuse: what somebody else has refused is not fetched, and is there for those who have it already.
func TestRefuse(t *testing.T) {
	l, diffID := plainBlob(t, regular("file", noise(2, 1000)))
	r := newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	cause := errors.New("does not fit")
	n.Refuse(l.digest, cause)
	if err := n.Mount(t.Context(), r.bottom(l, diffID)); !errors.Is(err, cause) || r.asked(l.digest) != 0 {
		t.Errorf("error is %v, %d requests", err, r.asked(l.digest))
	}
	n.refused = refusals{}
	src, err := n.resolve(t.Context(), r.bottom(l, diffID))
	if err == nil {
		err = n.ensure(t.Context(), src)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.Refuse(l.digest, cause)
	n.mountLayer(t, r.bottom(l, diffID))
}
