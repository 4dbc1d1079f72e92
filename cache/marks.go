package cache

import (
	"errors"
	"io"
	"io/fs"
)

// Has reports whether the data file holds chunk i. The first call after a reboot, or a crash of the daemon, for a chunk that was there
// before reads and hashes it.
func (l *Layer) Has(i int) bool {
	return isSet(l.presence.present, i) || l.Claimed(i) && l.check(i)
}

// Claimed reports whether Has would have to read and hash chunk i.
func (l *Layer) Claimed(i int) bool {
	return !isSet(l.presence.present, i) && isSet(l.presence.claimed, i) && !isSet(l.lost, i)
}

// check looks whether the claim that chunk i is present is right. One that is not stays a claim, for its blocks are still there: see lose.
func (l *Layer) check(i int) bool {
	l.content.RLock()
	defer l.content.RUnlock()
	if !l.Claimed(i) { // somebody else was faster, or has taken it away
		return isSet(l.presence.present, i)
	}
	c := l.table.chunk(i)
	if !l.intact(c) {
		set(l.lost, i)
		return false
	}
	l.mark(i, c.Size)
	return true
}

// intact reports whether the data file has the bytes of c. It reads and hashes them.
func (l *Layer) intact(c Chunk) bool {
	h := l.sums.new()
	_, err := io.Copy(h, io.NewSectionReader(l.data, c.DataOffset, c.Size))
	return err == nil && l.sums.sum(h) == c.Digest
}

// mark makes a chunk present, and reports whether it was not before. That settles a claim, which goes before the chunk counts: the last one
// makes the layer complete, and who seals it then takes a checksum of marks and claims. It goes after the mark, or others would take the
// chunk for missing.
func (l *Layer) mark(i int, size int64) bool {
	isNew := set(l.presence.present, i)
	if isSet(l.presence.claimed, i) { // seldom: the page stays clean
		unset(l.presence.claimed, i)
	}
	if isNew {
		l.count(size)
	}
	return isNew
}

// lose makes a chunk absent that the disk has lost. Its blocks stay where they are, as a native mount may have them, and are counted: it is a
// claim then of which is known that it is wrong, until the chunk is stored again or Shed takes it. Readers that have asked Has already get what
// the page cache or the disk has.
func (l *Layer) lose(i int) {
	l.content.Lock()
	defer l.content.Unlock()
	l.loseHeld(i)
}

// loseHeld is lose for who holds l.content. It reports whether the chunk was present.
func (l *Layer) loseHeld(i int) bool {
	set(l.lost, i)
	if !isSet(l.presence.present, i) {
		return false
	}
	set(l.presence.claimed, i)
	unset(l.presence.present, i)
	l.presentChunks.Add(-1)
	l.presentBytes.Add(-l.table.size(i))
	l.wholeMu.Lock()
	defer l.wholeMu.Unlock()
	select {
	case <-l.whole:
		l.whole = make(chan struct{})
	default:
	}
	return true
}

func (l *Layer) count(size int64) {
	l.presentChunks.Add(1)
	l.presentBytes.Add(size)
	l.announce()
}

// believe decides what the marks of an earlier boot or process are worth, and whether the layer counts as sealed, if the data file was last
// changed at ctime. The record that it is goes for good before anything of the layer can be fetched anew.
func (l *Layer) believe(rec record, now session, ctime int64) error {
	known := string(l.presence.boot()) == now.boot
	sealed := rec.Sealed && rec.Changed.Data == ctime && (known || now.clean)
	switch {
	case sealed:
	case !known:
		if err := l.presence.distrust(); err != nil {
			return err
		}
	case !l.presence.closed(ctime):
		l.presence.disown()
	}
	l.presence.open()
	copy(l.presence.boot(), now.boot)
	l.countPresent()
	l.sealed.Store(sealed && l.Complete())
	l.native.Store(l.sealed.Load() || rec.Native == now.boot || rec.Sealed && known)
	l.inherited = known && !l.sealed.Load() && l.presentChunks.Load()+int64(countSet(l.presence.claimed, l.table.count)) > 0
	l.doubtful = rec.Sealed && !l.sealed.Load() && l.unseal() != nil
	return nil
}

// unseal takes back what layer.json says of a layer that is not sealed. A disk that does not take that is no reason to do without the
// layer: no process of this boot believes it then, for its marks are of no boot, and none of a later one if the store is not clean.
func (l *Layer) unseal() error {
	rec, err := readRecord(l.dir)
	if err == nil && rec.Sealed {
		err = l.unsealed(rec).writeSynced(l.dir)
	}
	if errors.Is(err, fs.ErrNotExist) { // it is absent, or was removed
		return nil
	}
	if err != nil {
		clear(l.presence.boot())
	}
	return err
}

// unsealed is rec without the seal. That there may be a native mount stays known to later processes of this boot: containers outlive them.
func (l *Layer) unsealed(rec record) record {
	rec.Sealed = false
	if l.native.Load() {
		rec.Native = l.boot
	}
	return rec
}

// countPresent looks at the chunk table only if some chunks are present and some are not.
func (l *Layer) countPresent() {
	chunks, bytes := countSet(l.presence.present, l.table.count), int64(0)
	switch chunks {
	case 0:
	case l.table.count:
		bytes = l.size
	default:
		for i := range l.table.count {
			if isSet(l.presence.present, i) {
				bytes += l.table.size(i)
			}
		}
		l.Trim()
	}
	l.presentChunks.Store(int64(chunks))
	l.presentBytes.Store(bytes)
}

// Present returns how many chunks, of how many uncompressed bytes, the data file holds. Chunks that are only claimed to be there count once
// they were looked at.
func (l *Layer) Present() (chunks int, bytes int64) {
	return int(l.presentChunks.Load()), l.presentBytes.Load()
}

// Complete reports whether all chunks are present, as soon as the last Put has returned.
func (l *Layer) Complete() bool { return l.presentChunks.Load() == int64(l.table.count) }
