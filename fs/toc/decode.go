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

// decodeEntries decodes {"version": 1, "entries": [...]} and gives each entry to take, which must copy what it keeps of
// it. It holds one entry's JSON, however long the TOC is. Other fields are passed over. An error of take ends it and is
// returned as it is.
func decodeEntries(r io.Reader, take func(*estargz.TOCEntry) error) error {
	d := decoder{src: budget{r: r}}
	d.json = json.NewDecoder(&d.src)
	if err := d.expect(json.Delim('{')); err != nil {
		return err
	}
	seen := false
	for d.more() {
		key, err := d.token()
		if err != nil {
			return err
		}
		if key != "entries" {
			if err := d.value(new(json.RawMessage)); err != nil {
				return err
			}
			continue
		}
		if seen {
			return errors.New("entries stand there twice")
		}
		seen = true
		if err = d.entries(take); err != nil {
			return err
		}
	}
	if !seen {
		return errors.New("no entries")
	}
	return d.expect(json.Delim('}'))
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
func (d *decoder) entries(take func(*estargz.TOCEntry) error) error {
	if err := d.expect(json.Delim('[')); err != nil {
		return err
	}
	var e entryJSON
	for n := 0; d.more(); n++ {
		if n == MaxEntries {
			return fmt.Errorf("more than %d entries", MaxEntries)
		}
		e = entryJSON{} // or what the next one leaves out would be the last one's
		if err := d.value(&e); err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		if err := e.markHole(); err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		if err := take(&e.TOCEntry); err != nil {
			return err
		}
	}
	return d.expect(json.Delim(']'))
}

// entryJSON is an entry as podman writes it too.
type entryJSON struct {
	estargz.TOCEntry
	ChunkType string `json:"chunkType"`
}

// hole stands in place of the digest of a chunk that is all zeros and need not be fetched. estargz's type has no field that
// says so.
const hole = "zeros"

func (e *entryJSON) markHole() error {
	switch e.ChunkType {
	case "":
	case hole:
		e.ChunkDigest = hole
	default:
		return fmt.Errorf("unknown type of chunk %s", quote(e.ChunkType))
	}
	return nil
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
