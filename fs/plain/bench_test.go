package plain

import (
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BenchmarkTake takes a layer of real files from memory: what the processor and the disk allow.
func BenchmarkTake(b *testing.B) {
	content := tarOf(b, goroot(b))
	for name, blob := range map[string][]byte{Gzip: gzipped(b, content), Zstd: zstandard(b, content), Tar: content} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, &fakeBlob{bytes: blob}, ocispec.MediaTypeImageLayerGzip)
			b.SetBytes(int64(len(content)))
			b.ReportMetric(float64(len(blob))/float64(len(content)), "ratio")
			for b.Loop() {
				if err := errors.Join(Take(b.Context(), r.Options), r.store.Remove(r.Digest)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// goroot is the files of this toolchain.
func goroot(b *testing.B) map[string][]byte {
	root := runtime.GOROOT() //nolint:staticcheck // a test runs where it was built
	files := make(map[string][]byte)
	err := filepath.WalkDir(root, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files[strings.TrimPrefix(path, root+"/")], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return files
}
