package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// packings are ways to pack a tar.
var packings = map[string][]estargz.Option{
	"estargz":                             {estargz.WithCompressionLevel(gzip.BestSpeed)},
	"estargz, several chunks in a member": {estargz.WithCompressionLevel(gzip.BestSpeed), estargz.WithMinChunkSize(20 << 10)},
	"zstd:chunked": {estargz.WithCompression(
		zstdCompression{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault}, &zstdchunked.Decompressor{}})},
}

// smallFiles are the small ones of testFiles.
func smallFiles() map[string][]byte {
	files := maps.Clone(testFiles())
	for _, large := range []string{hotFile, bigFile, "lib/zeros"} {
		delete(files, large)
	}
	files["etc/"+strings.Repeat("a", 70)+"/"+strings.Repeat("b", 70)] = []byte("a name of two fields, or of a record")
	return files
}

// changedFiles is smallFiles with one file changed and one more.
func changedFiles() map[string][]byte {
	files := smallFiles()
	files[changedFile] = append([]byte("changed"), files[changedFile]...)
	files["etc/added"] = []byte("added")
	return files
}

// usual are headers as buildkit makes them.
func usual(h *tar.Header) {
	h.Format, h.ModTime = tar.FormatPAX, time.Unix(1_700_000_000, 0)
	h.Uname, h.Gname = "root", "root"
}

// beside opens a layer whose previous version the store has all of.
func beside(t *testing.T, change func(h *tar.Header), opts ...estargz.Option) *harness {
	t.Helper()
	old := open(t, buildAs(change, smallFiles(), opts...), nil)
	if err := old.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := buildAs(change, changedFiles(), opts...)
	o := f.options(t, old.store)
	keepSkeleton(&o)
	return openWith(t, f, o)
}

// copied is a layer all of which has come, most of it from the version before, but not from that layer's skeleton. Both have headers as change
// makes them.
func copied(t *testing.T, change func(h *tar.Header), opts ...estargz.Option) *harness {
	t.Helper()
	next := beside(t, change, opts...)
	next.blob.answer(nil) // with the TOC comes the end of the blob
	if err := next.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := next.blob.fetchedBytes(); n > int64(len(next.fix.blob))/4 {
		t.Fatalf("%d of %d bytes were fetched", n, len(next.fix.blob))
	}
	next.blob.answer(nil)
	return next
}

// tocFile is where the layer's TOC is kept.
func (h *harness) tocFile() string { return filepath.Join(filepath.Dir(h.Store().DataPath()), "toc") }

// TestProveNextVersion: what copied chunks have not brought is guessed, and nothing is fetched for the proof.
func TestProveNextVersion(t *testing.T) {
	for name, opts := range packings {
		for headers, change := range map[string]func(*tar.Header){
			"usual": usual,
			"GNU":   func(h *tar.Header) { usual(h); h.Format = tar.FormatGNU },
			"records that no other header has": func(h *tar.Header) {
				if usual(h); len(h.Name) > 100 {
					h.PAXRecords = map[string]string{"path": h.Name}
				}
			},
			"with xattrs": func(h *tar.Header) {
				usual(h)
				h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": ""}
			},
		} {
			t.Run(name+"/"+headers, func(t *testing.T) {
				h := copied(t, change, opts...)
				h.mustProve()
				if seen := h.blob.seen(); len(seen) > 0 {
					t.Errorf("fetched: %v", seen)
				}
				if _, err := os.Stat(h.tocFile()); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the TOC is still there: %v", err)
				}
			})
		}
	}
}

// TestProveGuessedWrong: what no TOC tells is fetched, whether that is seen before or only by the diffID.
func TestProveGuessedWrong(t *testing.T) {
	nanos := func(h *tar.Header) { h.Format, h.ModTime = tar.FormatPAX, time.Unix(1_700_000_000, 123_000_000) }
	for name, opts := range packings {
		for headers, change := range map[string]func(*tar.Header){
			"fractions of seconds": nanos,
			"foreign records":      func(h *tar.Header) { usual(h); h.PAXRecords = map[string]string{"VENDOR.key": "value"} },
			"one of those that were copied": func(h *tar.Header) {
				if usual(h); h.Name == "etc/small090" {
					nanos(h)
				}
			},
		} {
			t.Run(name+"/"+headers, func(t *testing.T) {
				h := copied(t, change, opts...)
				h.mustProve()
				n, all := h.blob.fetchedBytes(), int64(len(h.fix.blob))
				if n == 0 || n >= all { // what came is not fetched once more
					t.Errorf("%d of %d bytes were fetched", n, all)
				}
			})
		}
	}
}

// TestProveDamagedTOC: a TOC that is not what was kept is of no use, and no harm.
func TestProveDamagedTOC(t *testing.T) {
	for name, opts := range packings {
		for damage, change := range map[string]func(p []byte) []byte{
			"flipped":   func(p []byte) []byte { p[len(p)/2] ^= 1; return p },
			"torn":      func(p []byte) []byte { return p[:len(p)/2] },
			"empty":     func([]byte) []byte { return nil },
			"zeros":     func(p []byte) []byte { clear(p); return p },
			"another's": func([]byte) []byte { return otherTOC(t, opts) },
		} {
			t.Run(name+"/"+damage, func(t *testing.T) {
				h := copied(t, usual, opts...)
				p, err := os.ReadFile(h.tocFile())
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(h.tocFile(), change(p), 0o600); err != nil {
					t.Fatal(err)
				}
				h.mustProve()
			})
		}
		t.Run(name+"/gone", func(t *testing.T) {
			h := copied(t, usual, opts...)
			if err := os.Remove(h.tocFile()); err != nil {
				t.Fatal(err)
			}
			h.mustProve()
		})
	}
}

// otherTOC is the TOC of another layer, as it is kept.
func otherTOC(t *testing.T, opts []estargz.Option) []byte {
	t.Helper()
	h := open(t, buildAs(usual, map[string][]byte{"another": []byte("file")}, opts...), keepSkeleton)
	return must(os.ReadFile(h.tocFile()))
}

// TestProveCopiedAnother: a layer that is not what its image claims is found out, though its headers were guessed.
func TestProveCopiedAnother(t *testing.T) {
	for name, opts := range packings {
		t.Run(name, func(t *testing.T) {
			h := copied(t, usual, opts...)
			want := tarDigest(t, h.fix.blob)
			proof, err := h.Prove(t.Context(), is(digest.FromString("another's")))
			if err != nil || proof.DiffID != want || h.Store().Info().DiffID != want {
				t.Errorf("diffID %s, recorded %s, want %s, error %v", proof.DiffID, h.Store().Info().DiffID, want, err)
			}
		})
	}
}

// TestProveCopiedLies: a guess is believed no more than a skeleton: a TOC whose tree is another than the tar's is found out.
func TestProveCopiedLies(t *testing.T) {
	h := copied(t, usual, packings["estargz"]...)
	meta := h.lying("etc/small090", func(e *estargz.TOCEntry) { e.Mode = 0o4755 })
	if bytes.Equal(meta, must(os.ReadFile(h.Store().MetadataPath()))) {
		t.Fatal("it does not lie")
	}
	if err := os.WriteFile(h.Store().MetadataPath(), meta, 0o600); err != nil {
		t.Fatal(err)
	}
	if proof, err := h.Prove(t.Context(), is(tarDigest(t, h.fix.blob))); err == nil || proof.DiffID != "" {
		t.Errorf("%+v, error %v", proof, err) // it is the disk that lies here
	}
}

// TestProveCopiedAfterRestarts: a part of the layer comes, the process ends, and another brings the rest.
func TestProveCopiedAfterRestarts(t *testing.T) {
	for name, opts := range packings {
		t.Run(name, func(t *testing.T) {
			h := beside(t, usual, opts...)
			off, _ := h.place(changedFile)
			h.mustCheck(off, 100)
			h.close()

			o := h.fix.options(t, h.store)
			keepSkeleton(&o)
			o.TOCDigest = ""
			again := openWith(t, h.fix, o)
			if err := again.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			again.blob.answer(nil)
			again.mustProve()
			if seen := again.blob.seen(); len(seen) > 0 {
				t.Errorf("fetched: %v", seen)
			}
		})
	}
}

// TestProveCopiedCancelled: what nobody waits for any more ends, whatever it is at, and can be done again.
func TestProveCopiedCancelled(t *testing.T) {
	h := copied(t, usual, packings["estargz"]...)
	want := tarDigest(t, h.fix.blob)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if proof, err := h.Prove(ctx, is(want)); !errors.Is(err, context.Canceled) || proof.DiffID != "" {
		t.Errorf("%+v, error %v", proof, err)
	}
	p := &prover{Layer: h.Layer, ctx: ctx, skeleton: must(h.Store().Skeleton()), hashed: proofTurn + 1}
	defer p.skeleton.Close()
	if left, err := p.learn(toc.Styles()); !errors.Is(err, context.Canceled) || p.guesses != nil {
		t.Errorf("%d styles left, error %v", len(left), err)
	}
	p.endGuesses()
	h.mustProve()
}
