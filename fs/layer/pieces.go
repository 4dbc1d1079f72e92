package layer

import "github.com/sluice-snapshotter/sluice/cache"

// piecesBatch is how many bytes of pieces a job collects before they are written.
const piecesBatch = 256 << 10

// pieces are those of the layer's skeleton that a job comes by. They are written all at once, and before the job's last stream is stored:
// whoever finds a layer complete is to find its skeleton complete too, as far as it was kept.
type pieces struct {
	l       *Layer
	last    bool // the stream that is decoded now is the last one
	records []byte
	piece   []byte
}

// decode decodes the stream that src begins with, as toc.Format.Decode does, and keeps what it has besides chunks, chunk being one of them, if all
// of it fits into dst. Else that has to be guessed, or fetched again, for Prove.
func (p *pieces) decode(dst, src []byte, least, chunk int) (n int, err error) {
	if !p.l.skeleton {
		return p.l.format.Decode(dst, src, least)
	}
	n, whole, err := p.l.format.DecodeAll(dst, src, least)
	if whole && err == nil {
		p.add(dst[:n], chunk)
	}
	if p.last || len(p.records) > piecesBatch {
		p.flush()
	}
	return n, err
}

// add takes what stream, which chunk is in, has besides chunks.
func (p *pieces) add(stream []byte, chunk int) {
	store := p.l.store
	at := store.Chunk(chunk).BlobOffset
	first, last := chunk, chunk
	for first > 0 && store.Chunk(first-1).BlobOffset == at {
		first--
	}
	for last+1 < store.NumChunks() && store.Chunk(last+1).BlobOffset == at {
		last++
	}
	p.piece = p.piece[:0]
	pos := int64(0)
	for i := first; i <= last; i++ {
		c := store.Chunk(i)
		if c.InnerOffset < pos || c.InnerOffset+c.Size > int64(len(stream)) {
			return // no writer makes such: Prove is to see to it
		}
		p.piece = append(p.piece, stream[pos:c.InnerOffset]...)
		pos = c.InnerOffset + c.Size
	}
	p.piece = append(p.piece, stream[pos:]...)
	if len(p.piece) <= cache.MaxPiece {
		p.records = cache.AppendPiece(p.records, at, p.piece)
	}
}

// flush writes what was collected. What a disk does not take is fetched again.
func (p *pieces) flush() {
	_ = p.l.store.KeepPieces(p.records)
	p.records = p.records[:0]
}
