package converter

import "testing"

func TestChunkSize(t *testing.T) {
	for content, want := range map[int64]int64{
		0:           256 << 10,
		4 << 30:     256 << 10,
		4<<30 + 1e6: 512 << 10,
		40 << 30:    4 << 20,
		1 << 50:     4 << 20,
	} {
		if got := chunkSize(content); got != want {
			t.Errorf("chunks of %d bytes for %d, want %d", got, content, want)
		}
	}
}
