package main

import (
	"fmt"
	"hash/crc32"
	"time"
)

// stopwatch adds up the time between start and stop.
type stopwatch struct {
	total time.Duration
	since time.Time
}

func (s *stopwatch) start() { s.since = time.Now() }
func (s *stopwatch) stop()  { s.total += time.Since(s.since) }

// castagnoli is the polynomial that processors know.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is of everything that was written to it, in order.
type checksum struct {
	crc   uint32
	bytes int64
}

func (c *checksum) Write(p []byte) (int, error) {
	c.crc = crc32.Update(c.crc, castagnoli, p)
	c.bytes += int64(len(p))
	return len(p), nil
}

func (c *checksum) String() string { return fmt.Sprintf("%d bytes, crc32c %08x", c.bytes, c.crc) }

// tally is of things in any order.
type tally struct {
	things int64
	sum    uint64
}

func (t *tally) add(thing []byte) {
	t.things++
	t.sum += uint64(crc32.Checksum(thing, castagnoli))
}

func (t *tally) String() string { return fmt.Sprintf("%d, sum %x", t.things, t.sum) }
