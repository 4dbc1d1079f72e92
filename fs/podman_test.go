package fs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// archiveLayers are the layers of an OCI archive that the integration tests keep.
func archiveLayers(t *testing.T, name string) []blob {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "integration", "testdata", "podman", name+".tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := make(map[string][]byte)
	for _, f := range untar(t, f) {
		content[filepath.Base(f.Name)] = f.data
	}
	var index ocispec.Index
	var manifest ocispec.Manifest
	if err := json.Unmarshal(content["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content[index.Manifests[0].Digest.Encoded()], &manifest); err != nil {
		t.Fatal(err)
	}
	var layers []blob
	for _, desc := range manifest.Layers {
		layers = append(layers, blob{bytes: content[desc.Digest.Encoded()], digest: desc.Digest, annotations: desc.Annotations})
	}
	return layers
}

func untar(t *testing.T, r io.Reader) (files []file) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file{*h, data})
	}
}

// TestPodmanLayers mounts what containers/storage and skopeo have written: holes are zeros in every way of mounting, there is nothing
// of them to fetch, and a layer is complete without them.
func TestPodmanLayers(t *testing.T) {
	z, err := gzip.NewReader(bytes.NewReader(archiveLayers(t, "source")[0].bytes))
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, z)
	zeros := int64(0) // in runs that the writers see: each of these files is made of such and of noise
	for _, f := range files {
		zeros += int64(bytes.Count(f.data, make([]byte, 1100))) * 1100
	}
	for _, name := range []string{"podman", "skopeo"} {
		t.Run(name, func(t *testing.T) {
			l := archiveLayers(t, name)[0]
			inModes(t, func(t *testing.T, mode Mode) {
				r := newRegistry(t, l)
				n := newNode(t, Options{Mode: mode})
				compare(t, n.mountLayer(t, r.source(l)), files)
				st := n.Status()[0]
				if st.State != Complete || st.Fetched != st.Size || st.Format != "zstd:chunked" {
					t.Errorf("all is read: %+v", st)
				}
				total := int64(0)
				for _, f := range files {
					total += int64(len(f.data))
				}
				// A file that is one chunk is none with a hole, even if it is all zeros.
				if holes := total - st.Size; holes < 200_000 || holes > zeros {
					t.Errorf("%d of %d bytes are in holes, want 200,000 to %d", holes, total, zeros)
				}
				if mode == FUSE {
					return
				}
				eventually(t, "native mount", func() bool { return n.Status()[0].Mount() == erofsNative })
				path, err := n.Path(l.digest, t.Name())
				if err != nil {
					t.Fatal(err)
				}
				compare(t, path, files)
			})
		})
	}
}
