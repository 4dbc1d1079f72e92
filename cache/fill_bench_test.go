package cache

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// BenchmarkFill writes a layer of 512 MiB, as fast as the decoder of a plain layer gives it, and then seals it.
func BenchmarkFill(b *testing.B) {
	const size, rate = 512 << 20, 150e6 // bytes, and bytes a second
	data := spread(1 << 20)
	s, err := open(b.TempDir(), bootA)
	if err != nil {
		b.Fatal(err)
	}
	var sealing time.Duration
	for b.Loop() {
		d := digest.FromString("x")
		began := time.Now()
		l, err := s.Fill(d, func(f *Filling) (Info, error) {
			for off := int64(0); off < size; off += int64(len(data)) {
				if _, err := f.WriteAt(data, off); err != nil {
					return Info{}, err
				}
				time.Sleep(time.Duration(float64(off)/rate*1e9) - time.Since(began))
			}
			return Info{Format: "tar", DataSize: size}, nil
		})
		if err != nil {
			b.Fatal(err)
		}
		began = time.Now()
		if err := l.Seal(b.Context()); err != nil {
			b.Fatal(err)
		}
		sealing += time.Since(began)
		closeBench(b, l.Close(), s.Remove(d))
	}
	b.ReportMetric(sealing.Seconds()*1000/float64(b.N), "seal-ms")
	closeBench(b, s.Close())
}

func closeBench(b *testing.B, errs ...error) {
	b.Helper()
	for _, err := range errs {
		if err != nil {
			b.Fatal(err)
		}
	}
}
