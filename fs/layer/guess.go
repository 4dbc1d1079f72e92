package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// A chunk that was copied from another layer has brought no skeleton. What its stream has besides, padding and headers, is made anew of the
// layer's TOC, which was kept for that, in the style in which the pieces that did come are written. The diffID tells if that was right; if it
// was not, those streams are fetched.

// guessWork is how many bytes can be hashed while a byte of a compressed TOC, of which an entry has some 60, is decoded, and headers are made of it.
const guessWork = 32

// keptTOC is the layer's TOC, as it was kept.
type keptTOC struct {
	toc.Kept
	file *os.File
	size int64
}

// openTOC opens the layer's TOC. The error wraps fs.ErrNotExist if there is none.
func (p *prover) openTOC() (*keptTOC, error) {
	f, err := p.store.TOC()
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &keptTOC{toc.Kept{Format: p.format, Digest: p.store.Info().TOCDigest, Compressed: pacedTOC{f, p}}, f, st.Size()}, nil
}

// pacedTOC is a TOC that is read, and decoded, in turns.
type pacedTOC struct {
	*os.File
	p *prover
}

func (t pacedTOC) Read(b []byte) (int, error) {
	if err := t.p.spend(guessWork * len(b)); err != nil {
		return 0, err
	}
	return t.File.Read(b)
}

// learn prepares guesses in the first of styles that is that of the skeleton, as far as that is there, and returns those behind it. Where the
// skeleton lacks nothing, only the TOC itself need not be fetched. An error is that of p.ctx.
func (p *prover) learn(styles []toc.Style) (left []toc.Style, err error) {
	if len(styles) == 0 {
		return nil, nil
	}
	if p.toc, err = p.openTOC(); err != nil {
		return nil, nil //nolint:nilerr // there need not be one
	}
	if !p.lacks() {
		return nil, nil
	}
	for i, s := range styles {
		same, err := p.reproduces(s)
		if err != nil {
			return nil, err
		}
		if same {
			p.guesses = newGuesses(p.toc.Guess(s))
			return styles[i+1:], nil
		}
	}
	p.endGuesses()
	return nil, nil
}

// endGuesses has nothing be guessed any more.
func (p *prover) endGuesses() {
	if p.guesses != nil {
		p.guesses.stop()
		p.guesses = nil
	}
	if p.toc != nil {
		_ = p.toc.file.Close() // it was read
		p.toc = nil
	}
}

// lacks says whether there are streams of chunks whose piece of the skeleton is missing.
func (p *prover) lacks() bool {
	last := int64(-1)
	for i := range p.store.NumChunks() {
		at := p.store.Chunk(i).BlobOffset
		if at != last && !p.skeleton.Has(at) {
			return true
		}
		last = at
	}
	return false
}

// reproduces says whether what is guessed in a style is the skeleton, as far as that is there.
func (p *prover) reproduces(s toc.Style) (bool, error) {
	for g, err := range p.toc.Guess(s) {
		if p.ctx.Err() != nil {
			return false, context.Cause(p.ctx)
		}
		if err != nil {
			return false, nil //nolint:nilerr // it is damaged, or of no help
		}
		if g.Piece == nil {
			continue
		}
		// The tar's end, zeros, is in the last piece.
		if piece, ok := p.skeleton.Piece(g.Stream); ok && !bytes.Equal(bytes.TrimRight(piece, "\x00"), bytes.TrimRight(g.Piece, "\x00")) {
			return false, nil
		}
	}
	return true, nil
}

// guesses are what the streams of a blob seem to have besides chunks, in the order of the blob.
type guesses struct {
	next func() (toc.Guessed, error, bool)
	stop func()
	now  toc.Guessed
	more bool // there is one
	buf  []byte
}

func newGuesses(all iter.Seq2[toc.Guessed, error]) *guesses {
	g := &guesses{}
	g.next, g.stop = iter.Pull2(all)
	g.advance()
	return g
}

func (g *guesses) advance() {
	var err error
	g.now, err, g.more = g.next()
	g.more = g.more && err == nil
}

// at guesses what the blob has in [from, to) besides so many chunks, all of them. It is valid until the next call, which must not be for what
// lies before. g may be nil.
func (g *guesses) at(from, to int64, chunks int) (piece []byte, ok bool) {
	if g == nil {
		return nil, false
	}
	for g.more && g.now.Stream < from {
		g.advance()
	}
	g.buf, ok = g.buf[:0], g.more && g.now.Stream == from
	for ; g.more && g.now.Stream < to; g.advance() {
		chunks -= g.now.Chunks
		if ok = ok && g.now.Piece != nil && len(g.buf)+len(g.now.Piece) <= toc.MaxGuess; ok {
			g.buf = append(g.buf, g.now.Piece...)
		}
	}
	return g.buf, ok && chunks == 0
}

// behind hashes what the blob has from a byte on, where no chunk follows: what is left of the payload, and the TOC, which in eStargz is a file of
// the tar, and else lies in frames that decompress to nothing, or outside of the blob.
func (p *prover) behind(from int64) error {
	info := p.store.Info()
	if p.toc == nil || info.PayloadSize < from {
		return p.between(from, info.BlobSize)
	}
	if err := p.between(from, info.PayloadSize); err != nil {
		return err
	}
	p.guessed = true
	if p.format != toc.EStargz || p.toc.size > info.BlobSize-info.PayloadSize {
		return nil
	}
	if _, err := p.toc.file.Seek(0, io.SeekStart); err != nil { // no more is guessed
		return &brokenError{err}
	}
	r, err := p.format.NewReaderAll(p.toc.file)
	if err != nil {
		return &brokenError{err}
	}
	defer r.Close()
	if _, err := io.Copy(writer(p.write), r); err != nil {
		return p.broken(err)
	}
	return nil
}
