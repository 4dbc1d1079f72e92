package toc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// maxValueSize is the most bytes of JSON that one entry may take: two paths of 4 KiB, each byte escaped, and the
// xattrs that an inode can hold, in base64, make half of it. It bounds what the decoder buffers.
const maxValueSize = 1 << 20

// decodeEntries decodes {"version": 1, "entries": [...]} entry by entry, so that what it holds besides the result is
// one entry's JSON, however long the TOC is. Other fields are passed over.
func decodeEntries(r io.Reader) ([]*estargz.TOCEntry, error) {
	d := decoder{src: budget{r: r}}
	d.json = json.NewDecoder(&d.src)
	if err := d.expect(json.Delim('{')); err != nil {
		return nil, err
	}
	var entries []*estargz.TOCEntry
	seen := false
	for d.more() {
		key, err := d.token()
		if err != nil {
			return nil, err
		}
		if key != "entries" {
			if err := d.value(new(json.RawMessage)); err != nil {
				return nil, err
			}
			continue
		}
		if seen {
			return nil, errors.New("entries stand there twice")
		}
		seen = true
		if entries, err = d.entries(); err != nil {
			return nil, err
		}
	}
	if !seen {
		return nil, errors.New("no entries")
	}
	return entries, d.expect(json.Delim('}'))
}

type decoder struct {
	src  budget
	json *json.Decoder
}

func (d *decoder) more() bool {
	d.src.left = maxValueSize
	return d.json.More()
}

func (d *decoder) token() (json.Token, error) {
	d.src.left = maxValueSize
	return d.json.Token()
}

func (d *decoder) value(v any) error {
	d.src.left = maxValueSize
	return d.json.Decode(v)
}

func (d *decoder) expect(want json.Delim) error {
	t, err := d.token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("%v where %v is expected", t, want)
	}
	return nil
}

// entries decodes the array of entries.
func (d *decoder) entries() ([]*estargz.TOCEntry, error) {
	if err := d.expect(json.Delim('[')); err != nil {
		return nil, err
	}
	const slabSize = 512 // entries, so that the collector has few large objects to look at
	var slab []estargz.TOCEntry
	var entries []*estargz.TOCEntry
	for d.more() {
		if len(entries) == MaxEntries {
			return nil, fmt.Errorf("more than %d entries", MaxEntries)
		}
		if len(slab) == 0 {
			slab = make([]estargz.TOCEntry, slabSize)
		}
		e := &slab[0]
		slab = slab[1:]
		if err := d.value(e); err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(entries), err)
		}
		share(e, entries)
		entries = append(entries, e)
	}
	return entries, d.expect(json.Delim(']'))
}

// share gives strings that many entries have, or one has twice, one place in memory: a quarter of a TOC's.
func share(e *estargz.TOCEntry, before []*estargz.TOCEntry) {
	for _, t := range [...]string{"reg", "chunk", "dir", "symlink", "hardlink"} {
		if e.Type == t {
			e.Type = t
		}
	}
	if e.Digest == e.ChunkDigest {
		e.Digest = e.ChunkDigest
	}
	if n := len(before); n > 0 && before[n-1].ModTime3339 == e.ModTime3339 {
		e.ModTime3339 = before[n-1].ModTime3339
	}
}

// budget refuses to read more than left bytes. json.Decoder reads only what its present value still lacks, rounded up
// to its buffer, so a budget per value bounds the buffer.
type budget struct {
	r    io.Reader
	left int
}

func (b *budget) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("value of more than %d bytes", maxValueSize)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
