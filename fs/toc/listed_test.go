package toc

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestListed(t *testing.T) {
	for _, c := range []struct {
		text string
		list Listed
	}{
		{"3", Listed{true, true, true}},
		{"0,2", Listed{false, false}},
		{"1,2,1", Listed{true, false, false, true}},
		{"0,1,2,1", Listed{false, true, true, false}},
	} {
		if got := c.list.String(); got != c.text {
			t.Errorf("%v is %q, want %q", c.list, got, c.text)
		}
		if got := ParseListed(c.text, len(c.list)); !slices.Equal(got, c.list) {
			t.Errorf("%q is %v, want %v", c.text, got, c.list)
		}
	}
	for range 100 {
		list := make(Listed, 1+rand.IntN(200))
		for i := range list {
			list[i] = rand.IntN(4) > 0
		}
		if got := ParseListed(list.String(), len(list)); !slices.Equal(got, list) {
			t.Fatalf("%v became %v", list, got)
		}
	}
}

// TestExtent: streams of several chunks count once, and what lies behind the list's last chunk does not.
func TestExtent(t *testing.T) {
	layout := &Layout{PrefetchChunks: 5, Chunks: []Chunk{
		{BlobOffset: 10, BlobSize: 100}, {BlobOffset: 10, BlobSize: 100}, {BlobOffset: 110, BlobSize: 20},
		{BlobOffset: 130, BlobSize: 7}, {BlobOffset: 140, BlobSize: 50}, {BlobOffset: 190, BlobSize: 1000},
	}}
	for text, want := range map[string][2]int64{
		"":        {190, 177},
		"5":       {190, 177},
		"1,4":     {110, 100},
		"0,1,3,1": {137, 127},
		"0,5":     {0, 0},
		"0,4,1":   {190, 50},
	} {
		if end, listed := ParseListed(text, 5).Extent(layout); end != want[0] || listed != want[1] {
			t.Errorf("%q: %d bytes, %d listed, want %v", text, end, listed, want)
		}
	}
}

func TestPrefetchSize(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "1": 1, "4096": 4096, "-1": 0, "1e3": 0, "99999999999999999999": 0, "x": 0} {
		if got := PrefetchSize(map[string]string{PrefetchSizeAnnotation: text}); got != want {
			t.Errorf("%q is %d", text, got)
		}
	}
}

// What cannot be meant makes all of the layer's first chunks its list, as if it said nothing.
func TestListedMalformed(t *testing.T) {
	for _, text := range []string{"", "2", "4", "1,3", "-1,4", "1,,2", "a", "3,", "1,9223372036854775807,1", " 3"} {
		if got := ParseListed(text, 3); got != nil {
			t.Errorf("%q is %v", text, got)
		}
	}
	if list := Listed(nil); !list.Has(0) || !list.Has(7) {
		t.Error("a layer without the annotation has chunks that are not on its list")
	}
}
