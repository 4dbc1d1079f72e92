package cache

import "fmt"

// CheckMetadata compares the layer's metadata image and chunk table with the checksums that were taken when they were written: who holds
// something against what they say is to know that it is not the disk.
func (l *Layer) CheckMetadata() error {
	rec, err := readRecord(l.dir)
	if err == nil {
		err = rec.verify(l.dir)
	}
	if err != nil {
		return fmt.Errorf("check layer %s: %w", l.digest, err)
	}
	return nil
}
