package wait

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/stream"
)

const (
	page    = 4 << 10
	thought = 100 * time.Millisecond // between two reads, at most
)

// reader reads the first page of each chunk of a file once, in a random order.
type reader struct {
	file   *os.File
	order  []int
	random *rand.Rand
	buf    [page]byte
}

func open(path string, seed uint64) (*reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		// Or the kernel asks for more than the page.
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), f.Close())
	}
	random := rand.New(rand.NewPCG(seed, 0))
	return &reader{file: f, order: random.Perm(int(info.Size() / stream.ChunkBytes)), random: random}, nil
}

func (r *reader) close() { _ = r.file.Close() } // it was only read

// think lets a random time pass, in which the background has the link for itself: a reader that never stops would be its only user.
func (r *reader) think(ctx context.Context) error {
	t := time.NewTimer(time.Duration(r.random.Int64N(int64(thought))))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// next reads a chunk and returns how long that took.
func (r *reader) next() (time.Duration, error) {
	if len(r.order) == 0 {
		return 0, errors.New("every chunk has been read: too many of them had come before")
	}
	i := r.order[0]
	r.order = r.order[1:]
	began := time.Now()
	_, err := r.file.ReadAt(r.buf[:], int64(i)*stream.ChunkBytes)
	wait := time.Since(began)
	if got := binary.BigEndian.Uint64(r.buf[:]); err == nil && got != uint64(i) {
		err = fmt.Errorf("chunk %d has the content of %d", i, got)
	}
	return wait, err
}

// quantile is the least of the values that a part of them does not exceed. There are some.
func quantile(values []float64, part float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(int(math.Ceil(part*float64(len(sorted))))-1, 0)]
}
