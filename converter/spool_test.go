package converter

import (
	"bytes"
	"io"
	"testing"
)

func TestDecompress(t *testing.T) {
	for name, raw := range map[string][]byte{
		"gzip header only": {0x1f, 0x8b, 8},
		"zstd header only": {0x28, 0xb5, 0x2f, 0xfd},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := decompress(bytes.NewReader(raw))
			if err == nil {
				_, err = io.ReadAll(r)
			}
			if err == nil {
				t.Error("read")
			}
		})
	}
	r, err := decompress(bytes.NewReader([]byte("ab")))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "ab" {
		t.Errorf("plain: %q, %v", got, err)
	}
}
