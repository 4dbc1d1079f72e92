package images

import (
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// SampleLine is what the command of the images of Layers, Files and Distinct prints, alone, when it has read some of their files, and
// they are right.
const SampleLine = "20 files are right"

const samples = 20

// forest is many files of pseudo-random text, three folders deep with a hundred entries each.
type forest struct {
	seed  uint64
	files int             // at most a million
	size  func(i int) int // bytes
	words [1 << 13]string // of the text: as many as make it compress to half
}

func newForest(seed uint64, files int, size func(i int) int) *forest {
	f := &forest{seed: seed, files: files, size: size}
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range f.words {
		word := make([]byte, 2+r.IntN(10), 12)
		for j := range word {
			word[j] = byte('a' + r.IntN(26))
		}
		f.words[i] = string(append(word, ' '))
	}
	return f
}

// name is the path of file i, without a slash at the front.
func (f *forest) name(i int) string {
	return fmt.Sprintf("data/%02d/%02d/%02d", i/10_000, i/100%100, i%100)
}

func (f *forest) content(i int) []byte {
	n := f.size(i)
	p := make([]byte, 0, n+12)
	for r := rand.New(rand.NewPCG(f.seed, uint64(i)+1)); len(p) < n; {
		p = append(p, f.words[r.IntN(len(f.words))]...)
	}
	return p[:n]
}

// layer is of the files from first to before end.
func (f *forest) layer(first, end int) layer {
	return asLayer(nil, func(t *tree) {
		for i := first; i < end && t.err == nil; i++ {
			t.file(f.name(i), f.content(i))
		}
	})
}

// image puts the files into n layers, in order, above base and probe. Its command reads files from all over.
func (f *forest) image(ctx context.Context, name string, n int) (*Image, error) {
	program, err := probe(ctx)
	if err != nil {
		return nil, err
	}
	layers := []layer{base(), withProbe(program)}
	for i := range n {
		layers = append(layers, f.layer(f.files*i/n, f.files*(i+1)/n))
	}
	return recipe{
		name:   name,
		key:    keyOf(syntheticSources, string(program)),
		layers: layers,
		config: ocispec.ImageConfig{Cmd: f.command(), Env: []string{"PATH=/"}},
	}.make(ctx)
}

// command reads a sample and compares its checksum.
func (f *forest) command() []string {
	var names []string
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for k := range samples {
		i := f.files * (2*k + 1) / (2 * samples)
		names = append(names, "/"+f.name(i))
		crc.Write(f.content(i))
	}
	return append([]string{"/probe", "sum", "-want", fmt.Sprintf("%08x", crc.Sum32())}, names...)
}

// layersFiles and their mean size make 40 MB, whatever the number of layers.
const layersFiles = 4000

// Layers makes an image of the same files for every n, 40 MB of them, in n layers above base and probe. Its command reads 20 files
// from all over and prints SampleLine.
func Layers(ctx context.Context, n int) (*Image, error) {
	if n < 1 || n > layersFiles {
		return nil, fmt.Errorf("image of %d layers: want 1 to %d", n, layersFiles)
	}
	sizes := make([]int, layersFiles)
	r := rand.New(rand.NewPCG(1, 0))
	for i := range sizes {
		sizes[i] = 500 + int(9_500*r.ExpFloat64()) // few are large, as in images of programs
	}
	f := newForest(1, layersFiles, func(i int) int { return sizes[i] })
	return f.image(ctx, fmt.Sprintf("layers-%d", n), n)
}

// Files makes an image with a layer of n files of 1 KiB, above base and probe. Its command reads 20 of them from all over and prints
// SampleLine.
func Files(ctx context.Context, n int) (*Image, error) {
	if n < samples || n > 1_000_000 {
		return nil, fmt.Errorf("image of %d files: want %d to a million", n, samples)
	}
	f := newForest(2, n, func(int) int { return 1 << 10 })
	return f.image(ctx, fmt.Sprintf("files-%d", n), 1)
}

// Distinct makes the i-th, from 0, of images that have only base and probe in common: a layer of 16 MB, 8 MB compressed. Its command
// reads 20 files of 50 kB from all over and prints SampleLine.
func Distinct(ctx context.Context, i int) (*Image, error) {
	if i < 0 {
		return nil, fmt.Errorf("distinct image %d: want 0 or more", i)
	}
	f := newForest(1_000+uint64(i), 320, func(int) int { return 50_000 })
	return f.image(ctx, fmt.Sprintf("distinct-%d", i), 1)
}

// Few makes the i-th, from 0, of images that have only base and probe in common: a layer of 32 files, 16 MB, 8 MB compressed. Its command
// reads 20 of them and prints SampleLine.
func Few(ctx context.Context, i int) (*Image, error) {
	if i < 0 {
		return nil, fmt.Errorf("image %d of few files: want 0 or more", i)
	}
	f := newForest(5_000+uint64(i), 32, func(int) int { return 500_000 })
	return f.image(ctx, fmt.Sprintf("few-%d", i), 1)
}
