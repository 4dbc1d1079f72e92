package images

import (
	"archive/tar"
	"context"
	"maps"
	"slices"
	"testing"
)

func TestLayers(t *testing.T) {
	const n = 3
	few, many := made(t, Layers, 1), made(t, Layers, n)
	if got := len(many.Manifest.Layers); got != n+2 {
		t.Errorf("%d layers, want %d above base and probe", got, n)
	}
	want := sizes(check(t, few))
	if got := sizes(check(t, many)); !maps.Equal(got, want) {
		t.Errorf("%d files in %d layers, %d in one, or of other sizes", len(got), n, len(want))
	}
	bytes := int64(0)
	for _, size := range want {
		bytes += size
	}
	if bytes < 35e6 || bytes > 45e6 {
		t.Errorf("%d bytes, want about 40 MB", bytes)
	}
	for _, n := range []int{0, layersFiles + 1} {
		if _, err := Layers(t.Context(), n); err == nil {
			t.Errorf("%d layers are accepted", n)
		}
	}
}

func TestFiles(t *testing.T) {
	const n = 1000
	im := made(t, Files, n)
	folders := make(map[string]int)
	files := 0
	for _, h := range check(t, im) {
		if h.Typeflag == tar.TypeReg && h.Size == 1<<10 {
			files++
			folders[h.Name[:len(h.Name)-len("/00")]]++
		}
	}
	if files != n {
		t.Errorf("%d files, want %d", files, n)
	}
	if most := slices.Max(slices.Collect(maps.Values(folders))); most > 100 {
		t.Errorf("%d files in one folder", most)
	}
	if _, err := Files(t.Context(), samples-1); err == nil {
		t.Error("fewer files than the command reads are accepted")
	}
}

func TestDistinct(t *testing.T) {
	layers := make(map[string]int)
	for i := range 2 {
		im := made(t, Distinct, i)
		for _, l := range im.Manifest.Layers {
			layers[l.Digest.String()]++
		}
		if im.Size() < 7e6 || im.Size() > 10e6 {
			t.Errorf("%d bytes compressed, want about 8 MB", im.Size())
		}
	}
	shared := 0
	for _, n := range layers {
		if n > 1 {
			shared++
		}
	}
	if shared != 2 {
		t.Errorf("%d layers are shared, want base and probe", shared)
	}
	if _, err := Distinct(t.Context(), -1); err == nil {
		t.Error("image -1 is made")
	}
}

func made(t *testing.T, make func(context.Context, int) (*Image, error), n int) *Image {
	t.Helper()
	im, err := make(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// sizes are those of regular files, by name.
func sizes(entries []*tar.Header) map[string]int64 {
	m := make(map[string]int64)
	for _, h := range entries {
		if h.Typeflag == tar.TypeReg && h.Name != "probe" {
			m[h.Name] = h.Size
		}
	}
	return m
}
