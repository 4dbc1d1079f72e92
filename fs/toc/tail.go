package toc

import "io"

// The tail of a blob is what Fetch asks for where nobody says how large the TOC is. A compressed TOC takes some 60 bytes a file:
// 0.04 to 0.9 % of the layers that Debian's packages make (50 layers), and 6 % where all files are of 1 KiB. So a sixteenth of the blob holds
// footer and TOC of nearly all layers, and costs little before the first container starts.
const (
	// TailSize is the most bytes of a tail. At 50 MB/s they take about one round trip: more would cost every large layer more than the
	// second request that it saves a few.
	TailSize = 1 << 20
	// MinTailSize is how many bytes of a blob are asked for at least, all of a smaller one.
	MinTailSize = 128 << 10
	tailShare   = 16
)

// Tail is bytes of a blob that were read along with its TOC, from some offset of the blob on.
type Tail struct {
	Offset int64
	Bytes  []byte
}

func tailSize(blob int64) int64 {
	return max(0, min(blob, max(blob/tailShare, MinTailSize), TailSize))
}

// readTail reads the tail of a blob. Where f is known it is the TOC, and in a small blob all that is before it.
func (w Wanted) readTail(r io.ReaderAt, f footer) (Tail, error) {
	end := max(0, w.BlobSize)
	if f.tocSize > 0 {
		end = f.tocOffset + f.tocSize
	}
	n := end
	switch {
	case w.Whole && w.BlobSize <= TailSize:
	case f.tocSize > 0 && w.BlobSize > MinTailSize:
		n = f.tocSize
	default:
		n = min(tailSize(w.BlobSize), end)
	}
	t := Tail{Offset: end - n, Bytes: make([]byte, n)}
	return t, readFull(r, t.Bytes, t.Offset)
}

// payload is what of the tail is contents of files, or lies between them.
func (t Tail) payload(f footer) Tail {
	t.Bytes = t.Bytes[:max(0, f.payloadSize-t.Offset)]
	return t
}
