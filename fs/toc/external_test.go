package toc

import (
	"bytes"
	"errors"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/externaltoc"
)

func TestExternalTOC(t *testing.T) {
	c := externaltoc.NewGzipCompressionWithLevel(nil, 1).(*externaltoc.GzipCompression)
	b := pack(t, makeTar(t, reg("f", "data"), reg("g", noise(1, 300<<10))), estargz.WithCompression(c))
	var table bytes.Buffer
	if _, err := c.WriteTOCTo(&table); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("registry is gone")
	w := Wanted{BlobSize: int64(len(b.bytes)), Digest: b.toc}
	for _, tc := range []struct {
		name     string
		external func() ([]byte, error)
		want     error
	}{
		{"nobody knows", nil, ErrExternal},
		{"no answer", func() ([]byte, error) { return nil, broken }, broken},
		{"right", func() ([]byte, error) { return table.Bytes(), nil }, nil},
	} {
		w.External = tc.external
		raw, err := Fetch(bytes.NewReader(b.bytes), w)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.want)
		}
		if tc.want != nil || err != nil {
			continue
		}
		l, err := raw.Layout()
		if err != nil || l.Files != 2 || raw.Format != EStargz || raw.PayloadSize != w.BlobSize-46 || len(raw.Tail.Bytes) != MinTailSize-46 {
			t.Errorf("%+v, payload %d, tail of %d: %v", l, raw.PayloadSize, len(raw.Tail.Bytes), err)
		}
	}
	w.External = func() ([]byte, error) {
		return compress(t, EStargz, makeTar(t, reg(estargz.TOCTarName, `{"entries":[]}`))), nil
	}
	raw, err := Fetch(bytes.NewReader(b.bytes), w)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Layout(); !errors.As(err, new(*DigestError)) {
		t.Errorf("another TOC: error %v", err)
	}
	for cut := range externalFooterSize { // no part of the footer is one
		p := b.bytes[len(b.bytes)-externalFooterSize+cut:]
		if endsExternally(p) != (cut == 0) {
			t.Errorf("%d bytes cut off", cut)
		}
	}
}
