package layer

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
)

const changedFile = "etc/small050"

// nextLayer is testLayer of the next version: one file has changed, one is new.
var nextLayer = sync.OnceValue(func() fixture {
	files := maps.Clone(testFiles())
	files[changedFile] = append([]byte("changed"), files[changedFile]...)
	files["etc/added"] = []byte("added")
	return build(files, estargz.WithCompressionLevel(gzip.BestSpeed))
})

// versions has a layer, all of which is in the store, and the next version of it, nothing of which is.
func versions(t *testing.T, change func(*Options)) (old, next *harness, copied *atomic.Int64) {
	t.Helper()
	old = open(t, testLayer(), nil)
	if err := old.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	copied = new(atomic.Int64)
	o := nextLayer().options(t, old.store)
	o.Observer.Copied = func(n int64) { copied.Add(n) }
	if change != nil {
		change(&o)
	}
	next = openWith(t, nextLayer(), o)
	next.blob.answer(nil)
	return old, next, copied
}

// bytesAsked sums the bytes of requests.
func (b *fake) bytesAsked() (sum int64) {
	for _, q := range b.seen() {
		sum += q.size
	}
	return sum
}

// TestNextVersion brings the next version of a layer in each of the ways that there are, and reads it: little is fetched.
func TestNextVersion(t *testing.T) {
	readAll := func(h *harness) {
		for off := 0; off < len(h.want); off += 40_000 {
			h.mustCheck(int64(off), min(40_000, len(h.want)-off))
		}
	}
	for name, bring := range map[string]func(t *testing.T, h *harness){
		"fill": func(t *testing.T, h *harness) {
			if err := h.Fill(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"prefetch": func(t *testing.T, h *harness) {
			told := false
			if err := h.Prefetch(t.Context(), 1<<20, func() { told = true }); err != nil || !told {
				t.Errorf("%v, told %v", err, told)
			}
			if n := h.blob.bytesAsked(); n != 0 {
				t.Errorf("%d bytes are fetched, and all of the list is here", n)
			}
		},
		"read": func(*testing.T, *harness) {},
		"expect": func(t *testing.T, h *harness) {
			h.Expect([]Extent{{0, int64(len(h.want))}}, Demand)
			if _, err := h.ReadExpected(t.Context(), make([]byte, len(h.want)), 0); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, next, copied := versions(t, nil)
			bring(t, next)
			readAll(next)
			// What is around the two files comes along, as far as it is not there.
			if got, most := next.blob.bytesAsked(), int64(32<<10); got > most || got == 0 {
				t.Errorf("%d bytes are fetched of %d, want some and at most %d", got, len(next.blob.data), most)
			}
			most := next.Store().Size()
			if got := copied.Load(); got < most-32<<10 || got >= most {
				t.Errorf("%d of %d bytes are copied", got, most)
			}
			next.close() // what is under way
		})
	}
}

// TestNextVersionAtOnce has many readers of the next version while it is filled, and while the old one goes.
func TestNextVersionAtOnce(t *testing.T) {
	old, next, _ := versions(t, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := next.Fill(t.Context()); err != nil {
			t.Error(err)
		}
	})
	for i := range 8 {
		wg.Go(func() {
			for off := i * 1000; off < len(next.want); off += 64 << 10 {
				next.mustCheck(int64(off), min(5000, len(next.want)-off))
			}
		})
	}
	wg.Go(func() {
		if err := old.store.Remove(old.Store().Digest()); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
}

// TestNextVersionDamaged has the old version's data file changed all over, whose chunks count as present: what is copied is found out, and
// fetched.
func TestNextVersionDamaged(t *testing.T) {
	for name, bring := range map[string]func(h *harness) error{
		"read": func(h *harness) error { return h.check(t.Context(), 0, len(h.want)) },
		"fill": func(h *harness) error { return errors.Join(h.Fill(t.Context()), h.check(t.Context(), 0, len(h.want))) },
		"prefetch": func(h *harness) error {
			return errors.Join(h.Prefetch(t.Context(), 0, nil), h.check(t.Context(), 0, len(h.want)))
		},
		"expected": func(h *harness) error {
			_, err := h.ReadExpected(t.Context(), make([]byte, len(h.want)), 0)
			return errors.Join(err, h.check(t.Context(), 0, len(h.want)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			old, next, copied := versions(t, nil)
			f, err := os.OpenFile(old.Store().DataPath(), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			for off := int64(0); off < old.Store().Info().DataSize; off += 4096 {
				if _, err := f.WriteAt([]byte("damage"), off); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(f.Close(), bring(next)); err != nil {
				t.Error(err)
			}
			if n := copied.Load(); n != 0 {
				t.Errorf("%d bytes were copied", n)
			}
		})
	}
}

// TestNextVersionUnreachable reads what is common to both versions while the registry is down, and what is not.
func TestNextVersionUnreachable(t *testing.T) {
	_, next, _ := versions(t, nil)
	next.blob.answer(func(context.Context, int, request) (io.ReadCloser, error) { return nil, errors.New("it is down") })
	off, _ := next.place(bigFile)
	next.mustCheck(off, 3<<20)
	if off, _ = next.place(changedFile); next.check(t.Context(), off, 100) == nil {
		t.Error("what has changed is read, and nobody has it")
	}
}

// TestNextVersionNotStored has no room on the disk: readers get what other layers have.
func TestNextVersionNotStored(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	_, next, _ := versions(t, nil)
	readOnly(t, next.Store())
	off, _ := next.place(bigFile)
	next.mustCheck(off, 3<<20)
	if n := next.blob.demands(); n != 0 {
		t.Errorf("%d requests", n)
	}
	if err := next.Prefetch(t.Context(), 0, nil); !errors.Is(err, cache.ErrNotStored) {
		t.Errorf("prefetch: %v", err)
	}
	if s := next.Status(); !errors.Is(s.Err, cache.ErrNotStored) {
		t.Errorf("status: %v", s.Err)
	}
}

// readOnly makes writing to a layer's data file fail.
func readOnly(t *testing.T, l *cache.Layer) {
	t.Helper()
	f, err := os.Open(l.DataPath())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Dup3(int(f.Fd()), int(l.File().Fd()), unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
}

// TestManyVersions has what one version has of a layer be spread over several others.
func TestManyVersions(t *testing.T) {
	s := newStore(t)
	all := make(map[string][]byte)
	var names []string
	for i := range 30 {
		name := fmt.Sprintf("lib/part%02d", i)
		p := make([]byte, 100<<10)
		for k := range p {
			p[k] = byte(k * (i + 7) >> 3)
		}
		all[name] = p
		names = append(names, name)
	}
	for part := range slices.Chunk(names, 10) {
		files := make(map[string][]byte)
		for _, name := range part {
			files[name] = all[name]
		}
		f := build(files)
		h := openWith(t, f, f.options(t, s))
		if err := h.Fill(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.close()
	}
	f := build(all)
	h := openWith(t, f, f.options(t, s))
	h.blob.answer(nil)
	if err := h.Fill(t.Context()); err != nil {
		t.Error(err)
	}
	h.mustCheck(0, len(h.want))
	if n := len(h.blob.seen()); n != 0 {
		t.Errorf("%d requests, and all of it was there", n)
	}
}

// TestScatteredChanges has every twentieth of many files changed: what is fetched is not what lies between them.
func TestScatteredChanges(t *testing.T) {
	files := make(map[string][]byte)
	rng := rand.NewChaCha8([32]byte{9})
	for i := range 2000 {
		p := make([]byte, 4000)
		_, _ = rng.Read(p)
		files[fmt.Sprintf("etc/file%04d", i)] = p
	}
	s := newStore(t)
	f := build(files)
	old := openWith(t, f, f.options(t, s))
	if err := old.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 2000; i += 20 {
		p := slices.Clone(files[fmt.Sprintf("etc/file%04d", i)])
		p[0]++
		files[fmt.Sprintf("etc/file%04d", i)] = p
	}
	f = build(files)
	next := openWith(t, f, f.options(t, s))
	next.blob.answer(nil)
	if err := next.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	next.mustCheck(0, len(next.want))
	if got, most := next.blob.bytesAsked(), int64(len(f.blob))*7/100; got > most {
		t.Errorf("%d bytes are fetched of %d, want at most %d", got, len(f.blob), most)
	}
}
