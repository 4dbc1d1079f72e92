package layer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sluice-snapshotter/sluice/cache"
)

// TestLook: after a reboot, what was stored is hashed when there is a core for it, and that ends with its context.
func TestLook(t *testing.T) {
	for name, look := range map[string]func(*Layer, context.Context) error{"look": (*Layer).Look, "fill": (*Layer).Fill} {
		t.Run(name, func(t *testing.T) {
			l := rebooted(t)
			cores := l.scheduler.cores
			busy := make([]*entrant, cores.places[Demand])
			for i := range busy {
				busy[i] = &entrant{priority: Demand}
				must(0, cores.enter(t.Context(), busy[i]))
			}
			cause := errors.New("unmounted")
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- look(l, ctx) }()
			for waits := false; !waits && len(ended) == 0; runtime.Gosched() {
				cores.mu.Lock()
				waits = cores.waiting[Background].len() > 0
				cores.mu.Unlock()
			}
			cancel(cause)
			if err := <-ended; !errors.Is(err, cause) {
				t.Errorf("without a core: %v, want %v", err, cause)
			}
			if n, _ := l.store.Present(); n > 0 {
				t.Errorf("%d chunks were hashed", n)
			}
			for _, e := range busy {
				cores.leave(e)
			}
			if err := look(l, t.Context()); err != nil || !l.store.Complete() {
				t.Errorf("with cores: complete %v, %v", l.store.Complete(), err)
			}
		})
	}
}

// rebooted is a layer all of which was stored before a reboot, and whose blob is out of reach.
func rebooted(t *testing.T) *Layer {
	t.Helper()
	f, root := testLayer(), t.TempDir()
	before := must(cache.Open(root))
	l := must(Open(t.Context(), f.options(t, before)))
	must(0, l.Fill(t.Context()))
	must(0, l.Close())
	must(0, before.Close())
	name := filepath.Join(root, "layers", f.digest.Algorithm().String(), f.digest.Encoded(), "present")
	boot := bytes.TrimSpace(must(os.ReadFile("/proc/sys/kernel/random/boot_id")))
	record := must(os.ReadFile(name))
	must(0, os.WriteFile(name, bytes.Replace(record, boot, bytes.Repeat([]byte("0"), len(boot)), 1), 0o600))

	after := must(cache.Open(root))
	t.Cleanup(func() { must(0, after.Close()) })
	o := f.options(t, after)
	o.Blob.(*fake).answer(refuse)
	l = must(Open(t.Context(), o))
	t.Cleanup(func() { must(0, l.Close()) })
	if n, _ := l.store.Present(); n > 0 {
		t.Fatalf("%d chunks are believed", n)
	}
	return l
}
