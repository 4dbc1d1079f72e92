package layer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// lying is the metadata image of a TOC that says otherwise of an entry.
func (h *harness) lying(name string, change func(e *estargz.TOCEntry)) []byte {
	h.t.Helper()
	read := must(toc.Read(bytes.NewReader(h.fix.blob), int64(len(h.fix.blob)), h.fix.toc))
	for _, e := range read.Entries {
		if e.Name == name {
			change(e)
		}
	}
	var meta bytes.Buffer
	if err := must(read.Layout()).WriteMetadata(&meta); err != nil {
		h.t.Fatal(err)
	}
	return meta.Bytes()
}

// TestProveLyingTree: chunks and diffID are right, and the tree that is mounted is not the tar's. What is told names the file.
func TestProveLyingTree(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			h := open(t, f(), nil)
			again := h.remade(h.lying("etc/small050", func(e *estargz.TOCEntry) { e.Mode = 0o4755 }), func([]cache.Chunk) {})
			if err := again.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			proof, err := again.Prove(t.Context(), is(tarDigest(t, h.fix.blob)))
			var d *toc.DifferenceError
			if err != nil || proof.DiffID != NoDiffID || !errors.As(proof.Why, &d) || d.Path != "/etc/small050" {
				t.Errorf("%+v, error %v", proof, err)
			}
			if got := again.Store().Info().DiffID; got != NoDiffID {
				t.Errorf("recorded %s", got)
			}
		})
	}
}

// TestProveDamagedMetadata: a tree that the disk has damaged condemns nobody.
func TestProveDamagedMetadata(t *testing.T) {
	h := open(t, testLayer(), keepSkeleton)
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	meta, err := os.ReadFile(h.Store().MetadataPath())
	if err != nil {
		t.Fatal(err)
	}
	other := h.lying("etc/small050", func(e *estargz.TOCEntry) { e.Mode = 0o4755 })
	if bytes.Equal(meta, other) {
		t.Fatal("nothing is damaged")
	}
	write := func(p []byte) {
		if err := os.WriteFile(h.Store().MetadataPath(), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(other)
	if proof, err := h.Prove(t.Context(), is(tarDigest(t, h.fix.blob))); err == nil || proof.DiffID != "" {
		t.Errorf("%+v, error %v", proof, err)
	}
	if got := h.Store().Info().DiffID; got != "" {
		t.Errorf("recorded %s", got)
	}
	write(meta)
	h.mustProve()
}

// TestProveForgedTree: a registry has sent another mode than the blob has, in a header that is whole. At first sight that looks like a TOC that
// lies.
func TestProveForgedTree(t *testing.T) {
	h := open(t, testLayer(), keepSkeleton)
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := h.Store().Skeleton()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var records []byte
	forged := 0
	for i := range h.Store().NumChunks() {
		stream := h.Store().Chunk(i).BlobOffset
		p, ok := s.Piece(stream)
		if !ok || i > 0 && h.Store().Chunk(i-1).BlobOffset == stream {
			continue
		}
		p = bytes.Clone(p)
		if at := bytes.Index(p, []byte("etc/small050\x00")); at >= 0 {
			header := p[at:][:tarBlock]
			copy(header[100:], "0004755\x00")
			copy(header[148:], "        ")
			sum := 0
			for _, b := range header {
				sum += int(b)
			}
			copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
			forged++
		}
		records = cache.AppendPiece(records, stream, p)
	}
	if err := errors.Join(h.Store().DropSkeleton(), h.Store().KeepPieces(records)); err != nil || forged != 1 {
		t.Fatalf("%d headers, error %v", forged, err)
	}
	h.mustProve()
}
