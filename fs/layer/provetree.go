package layer

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// errEnough ends a prover's run when nobody wants to know the rest.
var errEnough = errors.New("the rest of the tar is not wanted")

// compare runs the prover, and compares the tree of the tar that it puts together with the one that is mounted. A difference at first sight
// ends it.
func (p *prover) compare(anew bool) error {
	im, err := metadata.Open(p.store.MetadataPath())
	if err != nil {
		return err
	}
	defer im.Close()
	var ran error
	next, stop := iter.Pull2(func(yield func([]byte, int64) bool) {
		p.yield = yield
		ran = p.run()
	})
	defer stop()
	tar := &provenTar{next: next}
	shown := toc.Shown{Image: im, Data: p.store}
	var differs error
	if anew {
		differs = shown.CompareTree(tar)
	} else {
		differs = shown.Compare(tar)
	}
	if !anew && differs != nil {
		stop()
		if ran != nil && !errors.Is(ran, errEnough) {
			return ran
		}
		return differs
	}
	for more := true; more; { // what is behind the tar's end is hashed too
		_, _, more = next()
	}
	if err := p.blob.judge(ran); err != nil {
		return err
	}
	if differs != nil {
		return fmt.Errorf("tar %s: %w", digest.NewDigest(digest.SHA256, p.tar), differs)
	}
	return nil
}

// provenTar is the tar that a prover puts together, for who reads it.
type provenTar struct {
	next   func() (p []byte, at int64, ok bool)
	have   []byte // that was not read yet
	at     int64  // where it is in the address space, -1 if it is not
	origin int64  // of what was read last
}

// Read implements io.Reader. The end may be one that an error has brought about.
func (t *provenTar) Read(b []byte) (int, error) {
	if len(t.have) == 0 {
		var ok bool
		if t.have, t.at, ok = t.next(); !ok {
			t.have = nil
			return 0, io.EOF
		}
	}
	n := copy(b, t.have)
	t.have, t.origin = t.have[n:], t.at
	if t.at >= 0 {
		t.at += int64(n)
	}
	return n, nil
}

// Origin implements toc.Tar.
func (t *provenTar) Origin() int64 { return t.origin }
