package images

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"math/rand/v2"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The one large file in the image that Weights makes.
const (
	WeightsFile  = "/model/weights"
	WeightsBytes = 2 << 30
)

// Weights makes the image of a model server: base, probe, and a layer of one large file that does not compress, the first
// bytes of ChaCha8 from a seed of zeros. Its command is "/probe model read /model/weights".
func Weights(ctx context.Context) (*Image, error) {
	program, err := probe(ctx)
	if err != nil {
		return nil, err
	}
	return recipe{
		name:   "weights",
		key:    keyOf(weightsSources, string(program)),
		layers: []layer{base(), withProbe(program), incompressible(weights)},
		config: ocispec.ImageConfig{Cmd: []string{"/probe", "model", "read", WeightsFile}, Env: []string{"PATH=/"}},
	}.make(ctx)
}

func weights(_ context.Context, w *tar.Writer) error {
	if err := parents(w, "model"); err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: WeightsFile[1:], Mode: 0o644, Size: WeightsBytes, ModTime: epoch}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.Copy(w, io.LimitReader(rand.NewChaCha8([32]byte{}), WeightsBytes)); err != nil {
		return fmt.Errorf("write weights: %w", err)
	}
	return nil
}
