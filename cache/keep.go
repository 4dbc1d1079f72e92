package cache

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// keepFiles makes sure that the disk has what is not fetched by chunk. What both the disk and the page cache have lost of meta.erofs
// and chunks nobody can bring while the layer is in use: it stays in use as it is, and whoever opens it next compares the files with
// their checksums, or does without it.
func (l *Layer) keepFiles() error {
	rec, err := readRecord(l.dir)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		sum  uint32
		at   mapping // nil: none
		prot int     // of the mapping
	}{
		{metaName, rec.Meta, nil, 0},
		{chunksName, rec.Chunks, l.table.mapping, unix.PROT_READ},
		{presentName, crc32.Checksum(l.presence.mapping, castagnoli), l.presence.mapping, unix.PROT_READ | unix.PROT_WRITE},
	} {
		name := filepath.Join(l.dir, f.name)
		isNew, err := keepFile(name, f.sum)
		if err == nil && isNew && f.at != nil {
			err = f.at.replace(name, f.prot)
		}
		if err != nil {
			return errors.Join(err, l.distrust(rec))
		}
	}
	return nil
}

// distrust has the layer's files verified when it is opened for the next time, in whatever boot.
func (l *Layer) distrust(rec record) error {
	rec = l.unsealed(rec)
	rec.Boot = ""
	err := rec.writeSynced(l.dir)
	if err != nil {
		err = errors.Join(err, os.Remove(filepath.Join(l.dir, recordName)))
	}
	return err
}

// keepFile makes sure that the disk has a file with this checksum. That fsync is content says little: of a write that failed it tells
// once, and perhaps it has told somebody else. What the disk has lost, and the page cache has, is written to a new file in its
// place: file systems do not take into an old one what they believe to have (ext4 leaves it in extents that read as zeros).
func keepFile(name string, want uint32) (isNew bool, err error) {
	err = onDisk(name, want)
	if err == nil {
		return false, nil
	}
	again := replaceFile(name, func(tmp string) error {
		if err := copyFile(tmp, name); err != nil {
			return err
		}
		return onDisk(tmp, want)
	})
	if again != nil {
		return false, errors.Join(err, again)
	}
	return true, syncFile(filepath.Dir(name))
}

func onDisk(name string, want uint32) error {
	if err := syncFile(name); err != nil {
		return err
	}
	got, err := storedChecksum(name)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the disk has lost some of %s: checksum is %08x, should be %08x", filepath.Base(name), got, want)
	}
	return nil
}

// storedChecksum is that of what the disk has of a file: the page cache goes on having what it was given, and mapped pages of it
// cannot be dropped. Where there are no direct reads, those that can have to do.
func storedChecksum(name string) (uint32, error) {
	sum, err := directChecksum(name)
	if !errors.Is(err, unix.EINVAL) {
		return sum, err
	}
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return 0, fmt.Errorf("drop cached pages of %s: %w", filepath.Base(name), err)
	}
	return checksum(name)
}

const keepBuffer = 1 << 20

// directChecksum reads past the page cache. The error is EINVAL where that is not possible.
func directChecksum(name string) (sum uint32, err error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buf, err := unix.Mmap(-1, 0, keepBuffer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // it is aligned
	if err != nil {
		return 0, fmt.Errorf("buffer: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(buf)) }()
	for off := int64(0); off < st.Size(); {
		n, err := f.Read(buf)
		if err != nil {
			return 0, err
		}
		sum = crc32.Update(sum, castagnoli, buf[:n])
		off += int64(n)
	}
	return sum, nil
}

func copyFile(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, st.Mode().Perm())
	if err != nil {
		return err
	}
	// Through memory: a file system that shares the blocks of a copy would share what is lost.
	_, err = io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, keepBuffer))
	return errors.Join(err, dst.Close())
}
