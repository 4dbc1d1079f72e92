package linker

import (
	"bytes"
	"encoding/binary"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// ldconfig makes a cache of this machine's objects in one of its formats.
func ldconfig(t testing.TB, format string) (name string, content []byte) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "cache")
	if out, err := exec.Command("/sbin/ldconfig", "-X", "-c", format, "-C", name).CombinedOutput(); err != nil {
		t.Skipf("ldconfig: %v: %s", err, out)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return name, content
}

func TestParseCache(t *testing.T) {
	for _, format := range []string{"new", "compat"} {
		t.Run(format, func(t *testing.T) {
			name, content := ldconfig(t, format)
			list, err := exec.Command("/sbin/ldconfig", "-p", "-C", name).Output()
			if err != nil {
				t.Fatal(err)
			}
			want := make(Cache)
			for line := range strings.Lines(string(list)) {
				entry, path, ok := strings.Cut(strings.TrimSpace(line), " => ")
				object, _, described := strings.Cut(entry, " (")
				if ok && described && want[object] == "" {
					want[object] = path
				}
			}
			if got := ParseCache(content); !maps.Equal(got, want) || got["libc.so.6"] == "" {
				t.Errorf("%d objects, want %d: %v", len(got), len(want), got)
			}
		})
	}
}

// TestParseCacheBroken: there is nothing in what is none, and of one that was cut short, what is there.
func TestParseCacheBroken(t *testing.T) {
	_, old := ldconfig(t, "old")
	for name, p := range map[string][]byte{"empty": nil, "other": []byte("something"), "old": old, "magic": []byte(cacheMagic)} {
		t.Run(name, func(t *testing.T) {
			if got := ParseCache(p); len(got) > 0 {
				t.Errorf("has %v", got)
			}
		})
	}
	t.Run("short", func(t *testing.T) {
		_, whole := ldconfig(t, "new")
		all := ParseCache(whole)
		for n := 0; n < len(whole); n++ {
			for object, path := range ParseCache(whole[:n]) {
				if all[object] != path {
					t.Fatalf("%s is at %q in %d bytes, at %q in all", object, path, n, all[object])
				}
			}
			if n > 4096 && n < len(whole)-4096 {
				n += 97 // most are like each other
			}
		}
	})
}

// oneCache is a cache with one entry.
func oneCache(order anyOrder, key, value uint32) []byte {
	p := append([]byte(cacheMagic), make([]byte, cacheHeader+cacheEntry-len(cacheMagic))...)
	order.PutUint32(p[20:], 1)
	p[28] = map[anyOrder]byte{binary.LittleEndian: 2, binary.BigEndian: 3}[order]
	order.PutUint32(p[cacheHeader+4:], key)
	order.PutUint32(p[cacheHeader+8:], value)
	return append(p, "liba.so\x00/lib/liba.so\x00"...)
}

func TestParseCacheOrder(t *testing.T) {
	for name, order := range map[string]anyOrder{"little endian": binary.LittleEndian, "big endian": binary.BigEndian} {
		t.Run(name, func(t *testing.T) {
			key := uint32(cacheHeader + cacheEntry)
			if got := ParseCache(oneCache(order, key, key+8)); !maps.Equal(got, Cache{"liba.so": "/lib/liba.so"}) {
				t.Errorf("has %v", got)
			}
			for _, far := range []uint32{1 << 20, 1<<32 - 1} {
				if got := ParseCache(oneCache(order, far, key)); len(got) > 0 {
					t.Errorf("a name at %d: %v", far, got)
				}
			}
		})
	}
}

// TestParseCacheNoEnd: names and paths that do not end, or only where no path does, are none.
func TestParseCacheNoEnd(t *testing.T) {
	key := uint32(cacheHeader + cacheEntry)
	good := oneCache(binary.LittleEndian, key, key+8)
	for name, p := range map[string][]byte{
		"at the end": good[:len(good)-1],
		"too long":   append(good[:len(good)-1:len(good)-1], append(bytes.Repeat([]byte("x"), maxPath), 0)...),
	} {
		if got := ParseCache(p); len(got) > 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestParseCacheMemory: a cache whose names lie in each other takes no more memory than one whose do not.
func TestParseCacheMemory(t *testing.T) {
	const entries = 20_000
	p := append([]byte(cacheMagic), make([]byte, cacheHeader-len(cacheMagic))...)
	binary.LittleEndian.PutUint32(p[20:], entries)
	names := uint32(cacheHeader + entries*cacheEntry)
	for i := range uint32(entries) {
		entry := make([]byte, cacheEntry)
		binary.LittleEndian.PutUint32(entry[4:], names+i)
		binary.LittleEndian.PutUint32(entry[8:], names+i)
		p = append(p, entry...)
	}
	for i := range uint16(entries) {
		p = binary.BigEndian.AppendUint16(p, i|0x8080) // hardly any repetition
	}
	for end := int(names) + maxName/2; end < len(p); end += maxName / 2 {
		p[end] = 0
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c := ParseCache(p)
	runtime.ReadMemStats(&after)
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(8*len(p)); got > most || len(c) < entries/10 {
		t.Errorf("%d names of a cache of %d KiB take %d KiB", len(c), len(p)>>10, got>>10)
	}
}

// FuzzParseCache gives ParseCache any bytes. There is nothing in what it makes of them that is not in them.
func FuzzParseCache(f *testing.F) {
	f.Add(oneCache(binary.LittleEndian, 72, 80))
	f.Add(oneCache(binary.BigEndian, 72, 80))
	f.Add(append([]byte("ld.so-1.7.0"), oneCache(binary.LittleEndian, 72, 1<<31)...))
	f.Fuzz(func(t *testing.T, p []byte) {
		c := ParseCache(p)
		if len(c) > len(p)/cacheEntry {
			t.Errorf("%d objects in %d bytes", len(c), len(p))
		}
		for name, path := range c {
			if len(name) >= maxName || len(path) >= maxPath || !bytes.Contains(p, []byte(name)) || !bytes.Contains(p, []byte(path)) {
				t.Errorf("%q is at %q", name, path)
			}
		}
	})
}
