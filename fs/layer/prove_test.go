package layer

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
)

// tarDigest is the diffID of a blob as those who unpack it compute it.
func tarDigest(t testing.TB, blob []byte) digest.Digest {
	t.Helper()
	var r io.Reader
	if blob[0] == 0x1f {
		z, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		r = z
	} else {
		z, err := zstd.NewReader(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		r = z
	}
	d, err := digest.FromReader(r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func keepSkeleton(o *Options) { o.Skeleton = true }

func is(want digest.Digest) func(digest.Digest) bool {
	return func(got digest.Digest) bool { return got == want }
}

// mustProve proves a layer whose diffID is expected.
func (h *harness) mustProve() {
	h.t.Helper()
	want := tarDigest(h.t, h.fix.blob)
	proof, err := h.Prove(h.t.Context(), is(want))
	if got := proof.DiffID; err != nil || got != want || h.Store().Info().DiffID != want {
		h.t.Errorf("diffID %s, recorded %s, want %s, why %v, error %v", got, h.Store().Info().DiffID, want, proof.Why, err)
	}
}

// fetchedBytes is how many bytes were asked for.
func (b *fake) fetchedBytes() (sum int64) {
	for _, q := range b.seen() {
		sum += q.size
	}
	return sum
}

// TestProve: once a layer has come, in whatever order, its proof fetches no more than what no chunk's stream has: the TOC, and what lies
// before the first file.
func TestProve(t *testing.T) {
	for name, f := range formats {
		for order, read := range map[string]func(*harness){
			"filled": func(h *harness) {
				if err := h.Fill(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			"read backwards": func(h *harness) {
				for i := h.Store().NumChunks() - 1; i >= 0; i-- {
					c := h.Store().Chunk(i)
					h.mustCheck(c.DataOffset, int(c.Size))
				}
			},
			"read at random": func(h *harness) {
				for _, i := range rand.Perm(h.Store().NumChunks()) {
					c := h.Store().Chunk(i)
					h.mustCheck(c.DataOffset, int(c.Size))
				}
			},
		} {
			t.Run(name+"/"+order, func(t *testing.T) {
				h := open(t, f(), keepSkeleton)
				read(h)
				h.blob.answer(nil)
				h.mustProve()
				for _, q := range h.blob.seen() {
					if q.priority != Background {
						t.Errorf("%d+%d was fetched as %s", q.off, q.size, q.priority)
					}
				}
				if n := h.blob.fetchedBytes(); n > int64(len(h.fix.blob))/20 {
					t.Errorf("%d of %d bytes were fetched: %v", n, len(h.fix.blob), h.blob.seen())
				}
				s, err := h.Store().Skeleton()
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if _, ok := s.Piece(h.Store().Chunk(0).BlobOffset); ok {
					t.Error("the skeleton is still there")
				}
			})
		}
	}
}

// TestProveTail: what comes along with the TOC has its skeleton too.
func TestProveTail(t *testing.T) {
	h := openTail(t, smallLayer(), keepSkeleton)
	<-h.ExtrasStored()
	h.blob.answer(nil)
	h.mustProve()
	if n := len(h.blob.seen()); n > 3 { // before the first file, behind the last one, and the landmark
		t.Errorf("fetched: %v", h.blob.seen())
	}
}

// TestProveWithoutSkeleton: what is missing of it is fetched.
func TestProveWithoutSkeleton(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			h := open(t, f(), nil)
			if err := h.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.blob.answer(nil)
			h.mustProve()
			if n := h.blob.fetchedBytes(); n != int64(len(h.fix.blob)) {
				t.Errorf("%d of %d bytes were fetched", n, len(h.fix.blob))
			}
			if n := len(h.blob.seen()); n > 4+len(h.fix.blob)/backgroundRange { // before the first file, behind the last one
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestProveAfterRestarts: half of a layer comes, the process ends, the skeleton is damaged or not, the rest comes.
func TestProveAfterRestarts(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, file string){
		"intact": func(*testing.T, string) {},
		"torn": func(t *testing.T, file string) {
			st, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, st.Size()*2/3-1); err != nil {
				t.Fatal(err)
			}
		},
		"zeroed": func(t *testing.T, file string) {
			p, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			clear(p[len(p)/2:])
			if err := os.WriteFile(file, p, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"flipped": func(t *testing.T, file string) {
			p, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p[len(p)/2] ^= 1
			if err := os.WriteFile(file, p, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"gone": func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, testLayer(), keepSkeleton)
			c := h.Store().Chunk(h.Store().NumChunks() / 2)
			for off := int64(0); off < c.DataOffset; off += 64 << 10 {
				h.mustCheck(off, 64<<10)
			}
			dir := filepath.Dir(h.Store().DataPath())
			o := h.fix.options(t, h.store)
			h.close()
			harm(t, filepath.Join(dir, "skeleton"))
			keepSkeleton(&o)
			l, err := Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			again := &harness{Layer: l, t: t, blob: o.Blob.(*fake), store: h.store, want: h.want, fix: h.fix}
			defer again.close()
			if err := again.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			again.mustProve()
		})
	}
}

// forgeSkeleton replaces the piece of a stream by one that is whole, and wrong.
func (h *harness) forgeSkeleton(chunk int) {
	h.t.Helper()
	s, err := h.Store().Skeleton()
	if err != nil {
		h.t.Fatal(err)
	}
	defer s.Close()
	at := h.Store().Chunk(chunk).BlobOffset
	p, ok := s.Piece(at)
	if !ok || len(p) == 0 {
		h.t.Fatal("no piece")
	}
	forged := bytes.Clone(p)
	forged[len(p)/2] ^= 1
	if err := h.Store().DropSkeleton(); err != nil {
		h.t.Fatal(err)
	}
	if err := h.Store().KeepPieces(cache.AppendPiece(nil, at, forged)); err != nil {
		h.t.Fatal(err)
	}
}

// TestProveForgedSkeleton: a registry has sent other headers than the blob's, which no chunk's digest tells. That is no reason to
// condemn the layer.
func TestProveForgedSkeleton(t *testing.T) {
	h := open(t, testLayer(), keepSkeleton)
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.forgeSkeleton(h.Store().NumChunks() / 2)
	h.mustProve()
}

// TestProveLostData: the disk has lost some of the data file.
func TestProveLostData(t *testing.T) {
	h := open(t, testLayer(), keepSkeleton)
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := h.Store().Chunk(h.Store().NumChunks() / 2)
	if _, err := h.Store().File().WriteAt([]byte("lost"), c.DataOffset); err != nil {
		t.Fatal(err)
	}
	want := tarDigest(t, h.fix.blob)
	if _, err := h.Prove(t.Context(), is(want)); !errors.Is(err, cache.ErrIncomplete) {
		t.Fatalf("error %v", err)
	}
	if d := h.Store().Info().DiffID; d != "" {
		t.Errorf("%s was recorded", d)
	}
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.mustProve()
}

// TestProveAnother: a layer whose TOC and chunks are right, and that is not the one it is taken for.
func TestProveAnother(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			h := open(t, f(), keepSkeleton)
			if err := h.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.blob.answer(nil)
			want := tarDigest(t, h.fix.blob)
			proof, err := h.Prove(t.Context(), is(digest.FromString("another's")))
			if got := proof.DiffID; err != nil || got != want || h.Store().Info().DiffID != want {
				t.Errorf("diffID %s, recorded %s, want %s, error %v", proof.DiffID, h.Store().Info().DiffID, want, err)
			}
		})
	}
}

// TestProveCutEnd: a blob that lacks zeros of its tar's end, as skopeo 1.9 makes them, is what its image means, and no other.
func TestProveCutEnd(t *testing.T) {
	h := open(t, storedLayer(), nil)
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	z := must(gzip.NewReader(bytes.NewReader(h.fix.blob)))
	tar := must(io.ReadAll(z))
	for zeros, proven := range map[int]bool{tarBlock: true, 3 * tarBlock: true, tarRecord: true, 3: false, tarRecord + tarBlock: false} {
		want := digest.FromBytes(append(bytes.Clone(tar), make([]byte, zeros)...))
		proof, err := h.Prove(t.Context(), is(want))
		if got := proof.DiffID; err != nil || (got == want) != proven {
			t.Errorf("%d bytes less: diffID %s, want %s: %t; error %v", zeros, proof.DiffID, want, proven, err)
		}
	}
}

// TestProveLies: bytes that are not the blob's condemn nobody.
func TestProveLies(t *testing.T) {
	for name, lie := range map[string]func(p []byte) []byte{
		"a header":          func(p []byte) []byte { return bytes.ReplaceAll(p, []byte("etc/small050"), []byte("etc/small05x")) },
		"what cannot be so": func(p []byte) []byte { return make([]byte, len(p)) },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, storedLayer(), nil)
			if err := h.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.blob.answer(func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
				return h.blob.body(bytes.NewReader(lie(bytes.Clone(h.blob.data[q.off:q.end()])))), nil
			})
			want := tarDigest(t, h.fix.blob)
			if d, err := h.Prove(t.Context(), is(want)); err == nil {
				t.Fatalf("diffID %s", d.DiffID)
			}
			if d := h.Store().Info().DiffID; d != "" {
				t.Errorf("%s was recorded", d)
			}
			if len(h.blob.distrusted) == 0 {
				t.Error("nobody is distrusted")
			}
			h.blob.answer(nil)
			h.mustProve()
		})
	}
}

// TestProveUnrecorded: what is found out counts, though the disk does not take it.
func TestProveUnrecorded(t *testing.T) {
	h := open(t, testLayer(), keepSkeleton)
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(filepath.Dir(h.Store().DataPath()), "layer.json")); err != nil {
		t.Fatal(err)
	}
	want := tarDigest(t, h.fix.blob)
	if p, err := h.Prove(t.Context(), is(want)); p.DiffID != want || err == nil {
		t.Errorf("diffID %s, error %v", p.DiffID, err)
	}
}

// TestProveEmpty: a layer without contents has nothing but a skeleton, none of which anybody has fetched before.
func TestProveEmpty(t *testing.T) {
	h := open(t, build(map[string][]byte{"etc/empty": {}}, estargz.WithCompressionLevel(gzip.BestSpeed)), keepSkeleton)
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.mustProve()
}

// recut is the layer of h in another store, with its chunks changed.
func (h *harness) recut(change func(chunks []cache.Chunk)) *harness {
	h.t.Helper()
	meta, err := os.ReadFile(h.Store().MetadataPath())
	if err != nil {
		h.t.Fatal(err)
	}
	return h.remade(meta, change)
}

// remade is the layer of h in another store, with its chunks changed, and another metadata image.
func (h *harness) remade(meta []byte, change func(chunks []cache.Chunk)) *harness {
	h.t.Helper()
	var chunks []cache.Chunk
	for i := range h.Store().NumChunks() {
		chunks = append(chunks, h.Store().Chunk(i))
	}
	change(chunks)
	o := h.fix.options(h.t, newStore(h.t))
	st, err := o.Store.Create(o.Digest, h.Store().Info(), func(f *os.File, add func(cache.Chunk) error) error {
		for _, c := range chunks {
			if err := add(c); err != nil {
				return err
			}
		}
		_, err := f.Write(meta)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	keepSkeleton(&o)
	l, err := Open(h.t.Context(), o)
	if err := errors.Join(err, st.Close()); err != nil {
		h.t.Fatal(err)
	}
	again := &harness{Layer: l, t: h.t, blob: o.Blob.(*fake), store: o.Store, want: h.want, fix: h.fix}
	h.t.Cleanup(again.close)
	return again
}

// TestProveBroken: a TOC whose chunks are right, and which has them where the tar does not, proves nothing.
func TestProveBroken(t *testing.T) {
	for name, change := range map[string]func(chunks []cache.Chunk){
		"a stream ends before its end": func(chunks []cache.Chunk) { chunks[len(chunks)/2].BlobSize -= 5 },
		"chunks overlap": func(chunks []cache.Chunk) {
			a, b := &chunks[len(chunks)-2], &chunks[len(chunks)-1]
			b.BlobOffset, b.BlobSize, b.InnerOffset = a.BlobOffset, a.BlobSize, 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, storedLayer(), nil)
			if err := h.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			again := h.recut(func(chunks []cache.Chunk) {
				change(chunks)
				for i := range chunks { // the digests of what is there now
					c := &chunks[i]
					p := make([]byte, c.InnerOffset+c.Size)
					if _, err := h.format.Decode(p, h.fix.blob[c.BlobOffset:], len(p)); err != nil {
						t.Fatal(err)
					}
					c.Digest = sha256.Sum256(p[c.InnerOffset:])
				}
			})
			if err := again.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			proof, err := again.Prove(t.Context(), is(tarDigest(t, h.fix.blob)))
			if err != nil || proof.DiffID != NoDiffID || proof.Why == nil {
				t.Errorf("diffID %s, why %v, error %v", proof.DiffID, proof.Why, err)
			}
		})
	}
}
