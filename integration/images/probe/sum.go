package main

import (
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumFiles prints one line, whatever it reads: the end of long output may be lost on its way out of a container.
func sumFiles(args []string) error {
	flags := flag.NewFlagSet("sum", flag.ContinueOnError)
	want := flags.String("want", "", "fail unless the checksum is `SUM`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("sum: which files?")
	}
	total := checksum{}
	for _, name := range flags.Args() {
		if err := total.file(name); err != nil {
			return err
		}
	}
	if *want == "" {
		return total.print()
	}
	if got := total.String(); got != *want {
		return fmt.Errorf("sum: %s, want %s", got, *want)
	}
	_, err := fmt.Printf("%d files are right\n", flags.NArg())
	return err
}

// checksum is of everything that was written to it.
type checksum struct {
	crc   uint32
	bytes int64
}

func (c *checksum) Write(p []byte) (int, error) {
	c.crc = crc32.Update(c.crc, castagnoli, p)
	c.bytes += int64(len(p))
	return len(p), nil
}

func (c *checksum) String() string { return fmt.Sprintf("%08x", c.crc) }

func (c *checksum) print() error {
	_, err := fmt.Printf("%s of %d bytes\n", c, c.bytes)
	return err
}

// file reads a file to its end, a mebibyte at a time.
func (c *checksum) file(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	// Without its other methods, which would choose a smaller buffer.
	_, err = io.CopyBuffer(c, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return errors.Join(err, f.Close())
}
