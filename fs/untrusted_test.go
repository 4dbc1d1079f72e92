package fs

import (
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// guest is a source of an image that is not trusted.
func guest(src Source) Source {
	src.Ref = strings.Replace(src.Ref, "/test/", "/guest/", 1)
	return src
}

// distrusting are options of an FS that does not trust guests. results gets what became of proofs.
func distrusting(mode Mode, results chan bool) Options {
	return Options{
		Mode: mode, Untrusted: func(ref string) bool { return strings.Contains(ref, "/guest/") },
		Proved: func(right bool) { results <- right },
	}
}

// mounting mounts in another goroutine.
func (n *node) mounting(ctx context.Context, src Source) <-chan error {
	done := make(chan error, 1)
	go func() { done <- n.Mount(ctx, src) }()
	return done
}

func (l blob) claimed(t *testing.T, src Source) Source {
	t.Helper()
	src.Chain = l.diffID(t)
	return src
}

// TestUntrusted: a layer of an image that is not trusted is there as a whole, and proven, when Mount returns. After a restart it is mounted
// without the registry.
func TestUntrusted(t *testing.T) {
	l := buildBlob(t, proofFiles(1), "etc/two")
	inModes(t, func(t *testing.T, mode Mode) {
		r, results, root := newRegistry(t, l), make(chan bool, 10), t.TempDir()
		n := openNode(t, root, distrusting(mode, results))
		src := l.claimed(t, guest(r.source(l)))
		path := n.mountLayer(t, src)
		if st := n.Status()[0]; st.State != Complete || n.recorded(t, l) != src.Chain || len(results) != 1 || !<-results {
			t.Errorf("mounted before it was proven: %+v, diffID %s", st, n.recorded(t, l))
		}
		compare(t, path, l.files)
		n.close(t)

		r.fail.Store(500)
		n = openNode(t, root, distrusting(mode, results))
		src.TOCDigest, src.Held = l.tocDigest, true
		if err := n.MountAgain(t.Context(), src); err != nil {
			t.Fatal(err)
		}
		compare(t, n.path(t, l, "after"), l.files)
	})
}

// TestUntrustedWrong: a layer that is not what its image claims, in its tar or in its tree, is never mounted for an image that is not trusted.
// It is not fetched a second time to find that out; who claims it rightly gets it, and so is the genuine one mounted.
func TestUntrustedWrong(t *testing.T) {
	genuine := buildZstd(t, proofFiles(1), nil)
	for name, crafted := range map[string]blob{"tar": buildBlob(t, proofFiles(5)), "tree": buildZstd(t, proofFiles(1), setuid)} {
		t.Run(name, func(t *testing.T) {
			inModes(t, func(t *testing.T, mode Mode) {
				r, results, root := newRegistry(t, crafted, genuine), make(chan bool, 10), t.TempDir()
				n := openNode(t, root, distrusting(mode, results))
				src := guest(r.source(crafted))
				src.Chain = genuine.diffID(t)
				before := len(mountsBelow(t, root))
				refused := func(when string) {
					t.Helper()
					if err := n.Mount(t.Context(), src); !errors.Is(err, ErrRefused) || !errors.Is(err, ErrUntrusted) {
						t.Errorf("%s: %v", when, err)
					}
					if n.Mounted(crafted.digest) {
						t.Errorf("%s: it is mounted", when)
					}
					if _, err := n.Path(crafted.digest, "x"); !errors.Is(err, iofs.ErrNotExist) {
						t.Errorf("%s: path: %v", when, err)
					}
					if got := len(mountsBelow(t, root)); got != before {
						t.Errorf("%s: %d mounts, before it %d", when, got, before)
					}
				}
				refused("found out")
				if <-results {
					t.Error("it was found to be right")
				}
				if st := n.Status(); len(st) != 1 || st[0].State != Failed || st[0].Mount() != "" {
					t.Errorf("status %+v", st)
				}
				refused("known")
				if err := n.Unmount(t.Context(), crafted.digest); err != nil {
					t.Fatal(err)
				}
				asked := r.asked(crafted.digest)
				refused("removed")
				n.close(t)
				n = openNode(t, root, distrusting(mode, results))
				refused("after a restart")
				if got := r.asked(crafted.digest); got != asked {
					t.Errorf("it was asked for %d times more", got-asked)
				}
				if d := crafted.diffID(t); d != src.Chain {
					right := src
					right.Chain = d
					compare(t, n.mountLayer(t, right), crafted.files)
				}
				compare(t, n.mountLayer(t, genuine.claimed(t, guest(r.source(genuine)))), genuine.files)
			})
		})
	}
}

// TestUntrustedShares: an image that is not trusted waits for the proof of a layer that one which is trusted has mounted already. What it claims
// wrongly, it does not get, and the other one keeps.
func TestUntrustedShares(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	for name, wrong := range map[string]bool{"right": false, "wrong": true} {
		t.Run(name, func(t *testing.T) {
			r, results := newRegistry(t, l), make(chan bool, 10)
			n := newNode(t, distrusting(EROFS, results))
			r.stallBelow = 1000 // contents wait, the TOC does not
			r.stall()
			trusted := l.claimed(t, r.told(l))
			trusted.Manifest = ""
			path := n.mountLayer(t, trusted)
			src := guest(trusted)
			if wrong {
				src.Chain = digest.FromString("another's")
			}
			if !n.ProofFirst(src) || n.ProofFirst(trusted) {
				t.Error("who has to wait?")
			}
			done := n.mounting(t.Context(), src)
			<-r.waiting // for contents that nobody else wants
			select {
			case err := <-done:
				t.Fatalf("mounted without a proof: %v", err)
			default:
			}
			r.release()
			err := <-done
			if <-results == wrong || errors.Is(err, ErrUntrusted) != wrong || (err == nil) == wrong {
				t.Errorf("error %v", err)
			}
			compare(t, path, l.files)
			if n.ProofFirst(src) {
				t.Error("it has still to be proven")
			}
			if err := n.Mount(t.Context(), trusted); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUntrustedHoldsNobodyUp: an image that is trusted has a layer at once that another one waits for the proof of.
func TestUntrustedHoldsNobodyUp(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r, results := newRegistry(t, l), make(chan bool, 10)
	n := newNode(t, distrusting(EROFS, results))
	r.stallBelow = 1000
	r.stall()
	trusted := l.claimed(t, r.told(l))
	trusted.Manifest, trusted.Held = "", true // else its registry would be asked
	ctx, cancel := context.WithCancel(t.Context())
	gone := n.mounting(ctx, guest(trusted))
	<-r.waiting
	if st := n.Status(); len(st) != 1 || st[0].Mount() != "" || n.Mounted(l.digest) {
		t.Errorf("mounted without a proof: %+v", st)
	}
	if _, err := n.Source(l.digest); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("source of a layer that is not mounted: %v", err)
	}
	path := n.mountLayer(t, trusted)
	if names, err := os.ReadDir(filepath.Join(path, "etc")); err != nil || len(names) != 3 {
		t.Errorf("%d names, %v", len(names), err)
	}
	cancel() // which does not end the proof
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	done := n.mounting(t.Context(), guest(trusted))
	r.release()
	if err := <-done; err != nil || !<-results {
		t.Error(err)
	}
	compare(t, path, l.files)
}

// TestProofOnce: who waits for a layer's proof and who proves it in the background, at the same time, do that once.
func TestProofOnce(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r, results := newRegistry(t, l), make(chan bool, 10)
	o := distrusting(EROFS, results)
	o.Background, o.ProveOf = true, func(string) bool { return true }
	n := newNode(t, o)
	r.stallBelow = 1000
	r.stall()
	trusted := l.claimed(t, r.told(l))
	trusted.Manifest = ""
	n.mountLayer(t, trusted)
	done := n.mounting(t.Context(), guest(trusted))
	<-r.waiting
	r.release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	eventually(t, "native mount", func() bool { return n.Status()[0].Mount() == erofsNative })
	if len(results) != 1 || !<-results {
		t.Errorf("%d proofs more", len(results))
	}
}

// TestUntrustedUnmounted: a layer that waits for its proof can be unmounted, and FS closed.
func TestUntrustedUnmounted(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	for name, end := range map[string]func(n *node) error{
		"unmounted": func(n *node) error { return n.Unmount(t.Context(), l.digest) },
		"closed":    func(n *node) error { return n.FS.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, l)
			n := newNode(t, distrusting(EROFS, make(chan bool, 10)))
			r.stallBelow = 1000
			r.stall()
			src := l.claimed(t, guest(r.told(l)))
			src.Manifest = ""
			done := n.mounting(t.Context(), src)
			<-r.waiting
			if err := end(n); err != nil {
				t.Error(err)
			}
			if err := <-done; !errors.Is(err, ErrProofFirst) {
				t.Error(err)
			}
		})
	}
}

// TestUntrustedRegistryDown: what cannot be proven is not mounted, and is when it can be.
func TestUntrustedRegistryDown(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r, results, root := newRegistry(t, l), make(chan bool, 10), t.TempDir()
	n := openNode(t, root, Options{Mode: EROFS}) // all is trusted
	src := l.claimed(t, guest(r.source(l)))
	n.mountLayer(t, src)
	n.close(t)

	n = openNode(t, root, distrusting(EROFS, results))
	src.TOCDigest, src.Held = l.tocDigest, true
	r.fail.Store(500)
	if err := n.Mount(t.Context(), src); !errors.Is(err, ErrProofFirst) || errors.Is(err, ErrRefused) || n.Mounted(l.digest) {
		t.Errorf("without the registry: %v", err)
	}
	r.fail.Store(0)
	if err := n.MountAgain(t.Context(), src); !errors.Is(err, ErrProofFirst) {
		t.Errorf("it is said to be there at once: %v", err)
	}
	if !<-results { // which it has begun
		t.Error("found to be wrong")
	}
	compare(t, n.mountLayer(t, src), l.files)
}

// TestUntrustedUnprovable: where nobody can tell what a layer has to be, an image that is not trusted does not get it.
func TestUntrustedUnprovable(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r := newRegistry(t, l)
	n := newNode(t, distrusting(EROFS, make(chan bool, 10)))
	if err := n.Mount(t.Context(), guest(r.source(l))); !errors.Is(err, ErrProofFirst) || n.Mounted(l.digest) {
		t.Errorf("error %v", err)
	}
	n.mountLayer(t, r.source(l))
}

// TestRefusedIsRemembered: a layer that was refused is not mounted again when its image was removed, nor after a restart, though nobody
// proves anything first. Those who claim it rightly get it.
func TestRefusedIsRemembered(t *testing.T) {
	crafted := buildBlob(t, proofFiles(1))
	r, results, root := newRegistry(t, crafted), make(chan bool, 10), t.TempDir()
	n := openNode(t, root, proving(EROFS, results))
	src := r.source(crafted)
	src.Chain = digest.FromString("another's")
	n.mountLayer(t, src)
	if <-results {
		t.Fatal("it was found to be right")
	}
	eventually(t, "failure", func() bool { return n.Status()[0].State == Failed })
	if err := n.Unmount(t.Context(), crafted.digest); err != nil {
		t.Fatal(err)
	}
	asked := r.asked(crafted.digest)
	for range 2 {
		if err := n.Mount(t.Context(), src); !errors.Is(err, ErrRefused) || errors.Is(err, ErrUntrusted) {
			t.Errorf("mounted again: %v", err)
		}
		n.close(t)
		n = openNode(t, root, proving(EROFS, results))
	}
	if got := r.asked(crafted.digest); got != asked {
		t.Errorf("it was asked for %d times more", got-asked)
	}
	right := crafted.claimed(t, r.source(crafted))
	compare(t, n.mountLayer(t, right), crafted.files)
	if err := n.Mount(t.Context(), src); !errors.Is(err, ErrRefused) {
		t.Errorf("mounted beside the right one: %v", err)
	}
	if !<-results {
		t.Error("the right claim was refused")
	}
}

// TestVerify: whole layers are proven only where they are to be, and, where nothing is fetched in the background, once all was read.
func TestVerify(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r := newRegistry(t, l)
	wrong := r.source(l)
	wrong.Chain = digest.FromString("another's")

	t.Run("chunks", func(t *testing.T) {
		results := make(chan bool, 10)
		n := newNode(t, Options{Mode: EROFS, Background: true, Proved: func(right bool) { results <- right }})
		n.mountLayer(t, wrong)
		eventually(t, "native mount", func() bool { return n.Status()[0].Mount() == erofsNative })
		if d := n.recorded(t, l); d != "" || len(results) > 0 {
			t.Errorf("diffID %s, %d proofs", d, len(results))
		}
		compare(t, n.path(t, l, "x"), l.files)
	})
	t.Run("whole without background", func(t *testing.T) {
		results := make(chan bool, 10)
		o := proving(EROFS, results)
		o.Background = false
		n := newNode(t, o)
		path := n.mountLayer(t, wrong)
		if _, err := os.ReadFile(filepath.Join(path, "etc/one")); err != nil {
			t.Error(err)
		}
		if len(results) > 0 {
			t.Error("proven before it was there")
		}
		for _, name := range []string{"etc/two", "etc/zeros"} {
			if _, err := os.ReadFile(filepath.Join(path, name)); err != nil {
				t.Error(err)
			}
		}
		select {
		case right := <-results:
			if right {
				t.Error("found to be right")
			}
		case <-time.After(time.Minute):
			t.Fatal("no proof")
		}
	})
}
