package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// records is a kind of file: a header and fixed-size records, all little endian.
//
//	header  magic [8]byte, version u32, record size u32, count u64, reserved [8]byte
type records struct {
	magic   string
	version uint32
	size    int // of a record in bytes
}

const recordsHeader = 32

// header is that of a file with so many records.
func (r records) header(count int) []byte {
	h := append(make([]byte, 0, recordsHeader), r.magic...)
	h = binary.LittleEndian.AppendUint32(h, r.version)
	h = binary.LittleEndian.AppendUint32(h, uint32(r.size))
	h = binary.LittleEndian.AppendUint64(h, uint64(count))
	return h[:recordsHeader]
}

// count returns how many records a file has. It is an error if it is not one of this kind, or has not the length that its header says.
func (r records) count(file []byte) (int, error) {
	if len(file) < recordsHeader || string(file[:8]) != r.magic {
		return 0, errors.New("does not begin as such a file")
	}
	if v, size := binary.LittleEndian.Uint32(file[8:]), binary.LittleEndian.Uint32(file[12:]); v != r.version || size != uint32(r.size) {
		return 0, fmt.Errorf("version %d with records of %d bytes", v, size)
	}
	n, size := binary.LittleEndian.Uint64(file[16:]), uint64(r.size)
	if have := uint64(len(file)-recordsHeader) / size; n != have || uint64(len(file)) != recordsHeader+n*size {
		return 0, fmt.Errorf("%d bytes for %d records", len(file), n)
	}
	return int(n), nil
}

// at returns record i.
func (r records) at(file []byte, i int) []byte { return file[recordsHeader+i*r.size:][:r.size] }
