package linker

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// CachePath is where glibc's dynamic linker has its cache of the objects in its folders.
const CachePath = "/etc/ld.so.cache"

// The format of glibc since 2.2, from its sysdeps/generic/dl-cache.h: a header, entries with the places of a name and a path, counted
// from the header, and these strings. Before it there may be one of an older format.
const (
	cacheMagic  = "glibc-ld.so.cache1.1"
	cacheHeader = 48
	cacheEntry  = 24
)

// Cache says where objects are, by their names. If there are several by one name, it is the first.
type Cache map[string]string

// ParseCache reads what it can of a cache. There is nothing in one that it does not understand.
func ParseCache(p []byte) Cache {
	start := bytes.Index(p, []byte(cacheMagic))
	if start < 0 || len(p)-start < cacheHeader {
		return nil
	}
	p = p[start:]
	order := binary.ByteOrder(binary.LittleEndian)
	if p[28]&3 == 3 { // flags: big endian
		order = binary.BigEndian
	}
	n := min(int(order.Uint32(p[20:])), (len(p)-cacheHeader)/cacheEntry)
	c, whole := make(Cache, n), string(p) // of which names and paths are parts, however they overlap
	for i := range n {
		entry := p[cacheHeader+i*cacheEntry:]
		key, value := order.Uint32(entry[4:]), order.Uint32(entry[8:])
		if int64(key) >= int64(len(p)) || int64(value) >= int64(len(p)) {
			return c
		}
		name, named := textAt(whole, key, maxName)
		path, placed := textAt(whole, value, maxPath)
		if _, ok := c[name]; !ok && named && placed {
			c[name] = path
		}
	}
	return c
}

// textAt is as text, without a copy; false if it takes more than so many bytes with its end, or has none.
func textAt(s string, at uint32, most int) (string, bool) {
	before, _, ok := strings.Cut(s[at:min(len(s), int(at)+most)], "\x00")
	return before, ok
}
