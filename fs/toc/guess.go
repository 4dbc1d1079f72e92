package toc

import (
	"archive/tar"
	"errors"
	"io"
	"iter"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// MaxGuess is the most bytes of a stream that are guessed: the headers of some 8,000 entries that follow each other without contents.
const MaxGuess = 4 << 20

const landmarkContents = 0xf // of estargz, which does not export it

// Kept is a TOC that somebody has kept as compressed.
type Kept struct {
	Format     Format
	Digest     digest.Digest // see Wanted
	Compressed io.ReadSeeker // nobody else reads it meanwhile
}

// Guessed is what a stream of the blob seems to have besides chunks.
type Guessed struct {
	Stream int64  // where it begins in the blob
	Chunks int    // that the TOC has of it
	Piece  []byte // all that is not of chunks, in a row, valid until the next one; nil if that cannot be guessed
}

var (
	errOrder  = errors.New("the TOC is not in the order of the blob")
	errPlace  = errors.New("headers are longer or shorter than they would be")
	errChunks = errors.New("chunks are not those of a file")
	errEnough = errors.New("the rest is not wanted")
)

// Guess makes, anew, what a layer's tar has besides contents: its TOC has most of what archive/tar needs for that. It yields a guess for
// each stream that contents lie in, those of landmarks too, in the order of the blob; the first one is what lies before, from byte 0 on. An
// error is the last that is yielded; it is a *DigestError if the TOC is not the one wanted. Nobody has to believe a guess: the digest of the
// tar that it gives tells.
//
// A stream, which has to begin with contents, is guessed with all that follows it up to the next one. The tar's end, zeros or the TOC's own
// entry, is not guessed.
func (k Kept) Guess(s Style) iter.Seq2[Guessed, error] {
	return func(yield func(Guessed, error) bool) {
		if _, err := k.Compressed.Seek(0, io.SeekStart); err != nil {
			yield(Guessed{}, err)
			return
		}
		g := newGuesser(s, yield)
		err := packed{k.Format, k.Digest, k.Compressed}.parse(g.take)
		if err == nil {
			err = g.end()
		}
		if err != nil && !g.enough {
			yield(Guessed{}, err)
		}
	}
}

// guesser goes through a TOC once. Its Write takes bytes of the tar that are not of chunks.
type guesser struct {
	style         Style
	users, groups owners
	yield         func(Guessed, error) bool
	enough        bool // the rest is not wanted

	stream int64
	chunks int
	piece  []byte // never nil
	pos    int64  // of what the stream decompresses to
	lost   bool   // what the stream has is not known

	size, left int64 // of the file whose chunks come, and what of it is to come
}

func newGuesser(s Style, yield func(Guessed, error) bool) *guesser {
	return &guesser{style: s, piece: []byte{}, users: owners{}, groups: owners{}, yield: yield}
}

func (g *guesser) take(e *estargz.TOCEntry) error {
	if e.Type == "chunk" {
		return g.chunk(e)
	}
	if g.left > 0 {
		return errChunks
	}
	if err := g.header(e); err != nil {
		g.lost = true
	}
	if e.Type != "reg" || e.Size <= 0 {
		return nil
	}
	g.size, g.left = e.Size, e.Size
	return g.chunk(e)
}

// header writes an entry's header.
func (g *guesser) header(e *estargz.TOCEntry) error {
	told, style := *e, g.style
	if isLandmark(e) {
		style = Style{format: tar.FormatUSTAR}
	} else {
		told.Uname, told.Gname = g.users.of(e.UID, e.Uname), g.groups.of(e.GID, e.Gname)
	}
	h, err := style.header(&told)
	if err != nil {
		return err
	}
	return tar.NewWriter(g).WriteHeader(h)
}

func isLandmark(e *estargz.TOCEntry) bool {
	if e.Type != "reg" || e.Size != 1 {
		return false
	}
	name, err := cleanName(e.Name)
	return err == nil && isMarker(name)
}

// chunk passes a chunk's bytes, which its entry says where they are.
func (g *guesser) chunk(e *estargz.TOCEntry) error {
	size := e.ChunkSize
	if size == 0 {
		size = g.left
	}
	if size <= 0 || size > g.left {
		return errChunks
	}
	if e.ChunkDigest == hole {
		g.zeros(size)
	} else if err := g.contents(e, size); err != nil {
		return err
	}
	if g.left -= size; g.left == 0 {
		g.zeros(-g.size & (tarBlock - 1))
	}
	return nil
}

const tarBlock = 512

func (g *guesser) contents(e *estargz.TOCEntry, size int64) error {
	switch {
	case e.Offset < g.stream:
		return errOrder
	case e.Offset > g.stream:
		if err := g.end(); err != nil {
			return err
		}
		g.stream, g.chunks, g.piece, g.pos, g.lost = e.Offset, 0, g.piece[:0], 0, false
	}
	if e.InnerOffset != g.pos && !g.lost {
		return errPlace
	}
	if isLandmark(e) {
		_, _ = g.Write([]byte{landmarkContents}) // never fails
		return nil
	}
	g.chunks++
	g.pos += size // no overflow: who laid the TOC out has refused that, and here it makes no difference
	return nil
}

// end yields the stream.
func (g *guesser) end() error {
	out := Guessed{Stream: g.stream, Chunks: g.chunks, Piece: g.piece}
	if g.lost {
		out.Piece = nil
	}
	if !g.yield(out, nil) {
		g.enough = true
		return errEnough
	}
	return nil
}

func (g *guesser) Write(p []byte) (int, error) {
	if len(p) > MaxGuess-len(g.piece) {
		g.lost = true
	}
	if !g.lost {
		g.piece = append(g.piece, p...)
		g.pos += int64(len(p))
	}
	return len(p), nil
}

func (g *guesser) zeros(n int64) {
	if n > int64(MaxGuess-len(g.piece)) {
		g.lost = true
		return
	}
	_, _ = g.Write(make([]byte, n)) // never fails
}
