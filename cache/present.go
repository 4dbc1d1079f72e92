package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A presence record is a header and two bitmaps of one bit a chunk, in native byte order (it never leaves its machine):
//
//	header   magic [8]byte, version u32, chunks u32, boot ID [36]byte, ctime of the data file u64, CRC-32C u32 (see touched.go)
//	present  chunks that the data file holds, checked during the boot that the header names
//	claimed  chunks that were present before a reboot, or before a crash of the daemon, and were not looked at since; and those that were
//	         looked at and are wrong, as long as they have blocks in the data file
const (
	presenceMagic   = "SLUICEPR"
	presenceVersion = 1
	presenceHeader  = 64
	bootIDSize      = 36
)

// bitmapWords is in units of 32 bits, rounded up to whole cache lines so that both bitmaps are aligned.
func bitmapWords(chunks int) int { return (chunks + 511) / 512 * 16 }

type presence struct {
	mapping
	present, claimed []uint32
}

// presenceOf is what a new presence record says.
type presenceOf struct {
	chunks, present int // of them the first ones
	boot            string
	dataCtime       int64 // see close
}

func (r presenceOf) write(name string) error {
	boot, present := r.boot, r.present
	if len(boot) != bootIDSize {
		return fmt.Errorf("boot ID %q is not %d bytes", boot, bootIDSize)
	}
	b := append(make([]byte, 0, presenceHeader+8*bitmapWords(r.chunks)), presenceMagic...)
	b = binary.NativeEndian.AppendUint32(b, presenceVersion)
	b = binary.NativeEndian.AppendUint32(b, uint32(r.chunks))
	b = append(b, boot...)
	b = append(b, make([]byte, presenceHeader-len(b))...)
	for ; present > 0; present -= 32 {
		b = binary.NativeEndian.AppendUint32(b, uint32(1<<min(present, 32)-1))
	}
	b = b[:cap(b)]
	presence{mapping: b}.close(r.dataCtime)
	// Written out, not left sparse: storing into a mapping must not need a block that a full disk hasn't got.
	return os.WriteFile(name, b, 0o600)
}

// openPresence maps the record.
func openPresence(name string, chunks int) (presence, error) {
	m, err := mapFile(name, true)
	if err != nil {
		return presence{}, err
	}
	words := bitmapWords(chunks)
	if len(m) != presenceHeader+8*words || string(m[:8]) != presenceMagic ||
		binary.NativeEndian.Uint32(m[8:]) != presenceVersion || binary.NativeEndian.Uint32(m[12:]) != uint32(chunks) {
		return presence{}, errors.Join(damaged("%s: not the presence record of %d chunks", presentName, chunks), m.unmap())
	}
	p := presence{mapping: m}
	if words > 0 {
		bits := unsafe.Slice((*uint32)(unsafe.Pointer(&m[presenceHeader])), 2*words)
		p.present, p.claimed = bits[:words], bits[words:]
	}
	return p, nil
}

// boot is the one that the record is of; it can be changed.
func (p presence) boot() []byte { return p.mapping[16 : 16+bootIDSize] }

// distrust turns marks of an earlier boot into claims. Until another boot ID is stamped it may be done again, so the order between the two
// bitmaps and the stamp on disk is all that matters.
func (p presence) distrust() error {
	p.claim()
	if err := unix.Msync(p.mapping, unix.MS_SYNC); err != nil {
		return fmt.Errorf("sync %s: %w", presentName, err)
	}
	clear(p.present)
	if err := unix.Msync(p.mapping, unix.MS_SYNC); err != nil {
		return fmt.Errorf("sync %s: %w", presentName, err)
	}
	return nil
}

// disown turns marks of an earlier process into claims. If the node crashes then, and loses half of that, marks are claims anyway.
func (p presence) disown() {
	p.claim()
	clear(p.present)
}

func (p presence) claim() {
	for i := range p.present {
		p.claimed[i] |= p.present[i]
	}
}

func bit(i int) (word int, mask uint32) { return i / 32, 1 << (i % 32) }

func isSet(bits []uint32, i int) bool {
	w, m := bit(i)
	return atomic.LoadUint32(&bits[w])&m != 0
}

// countSet returns how many of [0, n) are marked.
func countSet(marks []uint32, n int) (count int) {
	for w := range (n + 31) / 32 {
		word := atomic.LoadUint32(&marks[w])
		if rest := n - 32*w; rest < 32 {
			word &= 1<<rest - 1
		}
		count += bits.OnesCount32(word)
	}
	return count
}

// set marks i and reports whether it was not marked before.
func set(bits []uint32, i int) bool {
	w, m := bit(i)
	return atomic.OrUint32(&bits[w], m)&m == 0
}

// unset clears the mark of i and reports whether there was one.
func unset(bits []uint32, i int) bool {
	w, m := bit(i)
	return atomic.AndUint32(&bits[w], ^m)&m != 0
}
