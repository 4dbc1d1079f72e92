package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// Info says what a layer is.
type Info struct {
	Format         string        `json:"format"`                // as fs/toc names it
	TOCDigest      digest.Digest `json:"tocDigest"`             // that of the TOC which the other files were made from; "" if there was none
	BlobSize       int64         `json:"blobSize"`              // compressed bytes in the registry
	PayloadSize    int64         `json:"payloadSize,omitempty"` // of those, how many lie before TOC and footer; 0 if not known
	DataSize       int64         `json:"dataSize"`              // bytes of the address space, a multiple of 4096
	PrefetchChunks int           `json:"prefetchChunks"`        // chunks [0, PrefetchChunks) are the prefetch list
	// PrefetchListed says which of them are, as fs/toc's PrefetchAnnotation does; "" for all.
	PrefetchListed string `json:"prefetchListed,omitempty"`
	ID             uint32 `json:"id"` // the layer's number in this store: from 1, never given out twice
	// DiffID is the digest of the layer's tar, if that was computed: for layers that came chunk by chunk, see SetDiffID.
	DiffID digest.Digest `json:"diffID,omitempty"`
	// Padded are the digests that go for it as well, itself among them: of the tar with other numbers of zeros at its end. Nil if they were not
	// computed.
	Padded []digest.Digest `json:"padded,omitempty"`
	// Implied are directories that the tar has files in and says nothing of: unpacked, they would have the attributes that the
	// same directories have in the layers below.
	Implied []string `json:"implied,omitempty"`
}

// DiffIDs are all digests that the layer's tar goes by; none if none was computed.
func (i Info) DiffIDs() []digest.Digest { return allOf(i.DiffID, i.Padded) }

func allOf(diffID digest.Digest, padded []digest.Digest) []digest.Digest {
	if diffID == "" || len(padded) > 0 {
		return padded
	}
	return []digest.Digest{diffID}
}

// record is layer.json.
type record struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"`   // during which the files were written
	Meta    uint32 `json:"meta"`   // CRC-32C of meta.erofs
	Chunks  uint32 `json:"chunks"` // CRC-32C of chunks
	// ChunkBytes is the sum of the chunks' sizes, so that nobody has to walk the chunk table for it. A layer with chunks
	// and without this number is one of before there was the number: it counts as damaged.
	ChunkBytes int64 `json:"chunkBytes"`
	// Sums is which kind of digest the chunks have.
	Sums sums `json:"sums,omitempty"`
	// Sealed says that all chunks are present, and were on disk when this was written.
	Sealed bool `json:"sealed,omitempty"`
	// Native is the boot in which the layer was sealed, if that was taken back: containers of that boot may have native mounts of it.
	Native string `json:"native,omitempty"`
	// Changed is when the files were changed for the last time, as far as they are believed because of that: see touched.go.
	Changed ctimes `json:"changed"`
	Info
}

func buildLayer(dir string, rec record, build func(meta *os.File, add func(Chunk) error) error) error {
	meta, err := os.OpenFile(filepath.Join(dir, metaName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer meta.Close()
	table, err := createTable(filepath.Join(dir, chunksName), rec.DataSize)
	if err != nil {
		return err
	}
	defer table.close()
	if err := build(meta, table.add); err != nil {
		return err
	}
	if err := createSparse(filepath.Join(dir, dataName), rec.DataSize); err != nil {
		return err
	}
	return rec.finish(dir, table, false)
}

// finish writes what is about the other files, once those are there and the chunk table has all its records. The data file is full, or empty.
func (r record) finish(dir string, table *tableWriter, full bool) (err error) {
	if err := table.finish(); err != nil {
		return err
	}
	if r.PrefetchChunks < 0 || r.PrefetchChunks > table.count {
		return fmt.Errorf("prefetch list has %d chunks, the layer has %d", r.PrefetchChunks, table.count)
	}
	r.ChunkBytes = table.size
	if r.Sums == sha256Sums {
		if err := createIndex(dir); err != nil {
			return err
		}
	}
	present := presenceOf{chunks: table.count, boot: r.Boot}
	if present.dataCtime, err = fileCtime(filepath.Join(dir, dataName)); err != nil {
		return err
	}
	if full {
		present.present = table.count
	}
	if err := present.write(filepath.Join(dir, presentName)); err != nil {
		return err
	}
	if r.Meta, err = checksum(filepath.Join(dir, metaName)); err != nil {
		return err
	}
	if r.Chunks, err = checksum(filepath.Join(dir, chunksName)); err != nil {
		return err
	}
	if r.Changed, err = readCtimes(dir); err != nil {
		return err
	}
	r.Changed.Data = 0
	return r.write(dir)
}

// write replaces layer.json.
func (r record) write(dir string) error { return r.writeWith(dir, writeFile) }

// writeSynced replaces layer.json on disk.
func (r record) writeSynced(dir string) error { return r.writeWith(dir, writeSynced) }

func (r record) writeWith(dir string, write func(name string, b []byte) error) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	return write(filepath.Join(dir, recordName), append(b, recordSum(b)...))
}

// recordSum is the line that ends layer.json: a JSON string of its own, with the CRC-32C of all that stands before it.
func recordSum(b []byte) string {
	return fmt.Sprintf("\"crc32c:%08x\"\n", crc32.Checksum(b, castagnoli))
}

func createSparse(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// readRecord reads layer.json. A damaged one is as good as none: the error wraps fs.ErrNotExist.
func readRecord(dir string) (record, error) {
	name := filepath.Join(dir, recordName)
	if _, err := fileCtime(name); err != nil {
		return record{}, misplaced(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return record{}, err
	}
	var rec record
	text := b[:bytes.LastIndexByte(b[:max(0, len(b)-1)], '\n')+1]
	if string(b[len(text):]) != recordSum(text) {
		return record{}, damaged("%s: not what its checksum is of", recordName)
	}
	if err := json.Unmarshal(text, &rec); err != nil {
		return record{}, damaged("%s: %v", recordName, err)
	}
	if rec.Version != formatVersion || rec.ID == 0 || rec.DataSize < 0 || rec.BlobSize < 0 || rec.PrefetchChunks < 0 ||
		rec.ChunkBytes < 0 || rec.ChunkBytes > rec.DataSize || !rec.Sums.known() {
		return record{}, damaged("%s: values out of range", recordName)
	}
	return rec, nil
}

// verify compares the files with their checksums.
func (r record) verify(dir string) error {
	for _, f := range []struct {
		name string
		want uint32
	}{{metaName, r.Meta}, {chunksName, r.Chunks}} {
		got, err := checksum(filepath.Join(dir, f.name))
		if err != nil {
			return err
		}
		if got != f.want {
			return damaged("%s: checksum is %08x, should be %08x", f.name, got, f.want)
		}
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(name string) (uint32, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h := crc32.New(castagnoli)
	if _, err := io.Copy(h, f); err != nil {
		return 0, err
	}
	return h.Sum32(), nil
}

// damaged is a miss that carries its cause.
func damaged(format string, args ...any) error {
	return fmt.Errorf("damaged, taken as absent: "+format+" (%w)", append(args, fs.ErrNotExist)...)
}
