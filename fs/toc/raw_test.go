package toc

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// sameInOnePass checks that Raw.Layout gives what TOC.Layout does.
func sameInOnePass(t *testing.T, blob []byte, toc *TOC) {
	t.Helper()
	want, wantErr := toc.Layout()
	raw, err := Fetch(bytes.NewReader(blob), Wanted{BlobSize: toc.BlobSize, Digest: toc.Digest})
	if err != nil {
		t.Fatal(err)
	}
	if raw.Format != toc.Format || raw.PayloadSize != toc.PayloadSize || raw.BlobSize != toc.BlobSize || raw.Size() <= 0 {
		t.Errorf("fetched %s, payload %d of %d, TOC of %d", raw.Format, raw.PayloadSize, raw.BlobSize, raw.Size())
	}
	got, err := raw.Layout()
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Fatalf("error %v in one pass, %v in two", err, wantErr)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatal("another layout in one pass than in two")
	}
}

func TestLayoutInOnePass(t *testing.T) {
	layer := makeTar(t, append(goSources(t, "src/net/http"),
		reg("big", noise(1, 1<<20)), reg("empty", ""), link(tar.TypeLink, "again", "big"), reg("d/.wh.x", ""))...)
	for _, p := range packings {
		t.Run(p.name, func(t *testing.T) {
			b := pack(t, layer, p.options()...)
			sameInOnePass(t, b.bytes, b.read(t))
		})
	}
	for name, json := range map[string]string{
		"chunk of nothing": `{"entries":[{"name":"f","type":"chunk"}]}`,
		"late links":       `{"entries":[{"name":"a","type":"hardlink","linkName":"b"},{"name":"c","type":"hardlink","linkName":"b"},{"name":"b","type":"dir"}]}`,
		"the second":       `{"entries":[{"name":"a","type":"dir"},{"name":"../b","type":"dir"},{"name":"c","type":"dir"}]}`,
		"the last":         `{"entries":[{"name":"a","type":"dir"},{"name":"f","type":"reg","size":10}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := packJSON(t, EStargz, make([]byte, 10), []byte(json))
			sameInOnePass(t, b.bytes, b.read(t))
		})
	}
}

// TestDigestComesFirstInOnePass has TOCs that are both unwanted and refused, at once or later, and broken behind that.
func TestDigestComesFirstInOnePass(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		refused := `{"entries":[{"name":"..","type":"dir"},`
		for _, json := range []string{refused + `{}]}`, refused, refused + `1]`, refused + strings.Repeat(" ", 2<<20)} {
			b := packJSON(t, f, make([]byte, 10), []byte(json))
			raw, err := Fetch(bytes.NewReader(b.bytes), Wanted{BlobSize: int64(len(b.bytes)), Digest: someDigest})
			if err != nil {
				t.Fatal(err)
			}
			_, err = raw.Layout()
			var e *DigestError
			if !errors.As(err, &e) || e.Got != b.toc {
				t.Errorf("%.60q: error %v", json, err)
			}
		}
	})
}

// TestPlaces has files in another order than that of the blob, so that their chunks have to move.
func TestPlaces(t *testing.T) {
	at := func(offset, inner int64) func(e *entry) {
		return func(e *entry) { e.Offset, e.InnerOffset = offset, inner }
	}
	for name, entries := range map[string][]*entry{
		"in order":       {sound("a", at(100, 0)), sound("b", at(100, 200)), sound("c", at(300, 0))},
		"backwards":      {sound("c", at(300, 0)), sound("b", at(100, 200)), sound("a", at(100, 0))},
		"first one late": {sound("b", at(100, 200)), sound("c", at(300, 0)), sound("a", at(100, 0))},
		"some are gone":  {sound("b", at(50, 0)), sound("a", at(100, 0)), sound("b", at(100, 200)), sound("c", at(150, 0)), sound("c", at(300, 0))},
	} {
		t.Run(name, func(t *testing.T) {
			toc := tocOf(entries...)
			l, err := toc.Layout()
			if err != nil {
				t.Fatal(err)
			}
			checkShape(t, toc, l)
			for i, file := range []struct {
				name          string
				offset, inner int64
			}{{"a", 100, 0}, {"b", 100, 200}, {"c", 300, 0}} {
				if c := l.Chunks[i]; c.BlobOffset != file.offset || c.InnerOffset != file.inner || find(l.Root, file.name).Offset != c.DataOffset {
					t.Errorf("%s is at %+v", file.name, c)
				}
			}
		})
	}
}

// TestMemoryOfManyFiles bounds what is in memory at the moments of the most: when a TOC of 126,000 entries has been laid
// out, and when its metadata image is written. What is garbage by then does not count, nor do the bytes of the blob.
func TestMemoryOfManyFiles(t *testing.T) {
	const files, mostLaidOut, mostWritten = 120_000, 40e6, 42e6
	b := benchmarkBlob(t, files)
	payload := int64(files) * 12345
	raw, err := Fetch(b.sparse(payload), Wanted{BlobSize: payload + int64(len(b.bytes)), Digest: b.toc})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	l, err := raw.Layout()
	if err != nil {
		t.Fatal(err)
	}
	laidOut := heap() - before
	l.Chunks = nil // whoever makes the image has written the chunk table before
	written := uint64(0)
	err = l.WriteMetadata(writerFunc(func(p []byte) (int, error) {
		if written == 0 {
			written = heap() - before
		}
		return len(p), nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(raw)
	t.Logf("%.1f MB laid out, %.1f MB while writing", float64(laidOut)/1e6, float64(written)/1e6)
	if laidOut > mostLaidOut || written > mostWritten {
		t.Errorf("%.1f MB laid out, want at most %.1f; %.1f MB while writing, want at most %.1f",
			float64(laidOut)/1e6, mostLaidOut/1e6, float64(written)/1e6, mostWritten/1e6)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
