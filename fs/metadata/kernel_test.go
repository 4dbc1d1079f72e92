package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel is the reader that matters: everything that it shows of a mounted image must be as in the tree.
func TestKernel(t *testing.T) {
	tests := map[string]func() (*Node, int64){
		"only the root": func() (*Node, int64) { return dir(0o700, nil), 0 },
		"everything":    func() (*Node, int64) { return sampleTree(), sampleSize },
		"100000 in a row": func() (*Node, int64) {
			return wideTree(100_000), 100_000 << 12
		},
	}
	for seed := range uint64(6) {
		tests[fmt.Sprint("random ", seed)] = func() (*Node, int64) {
			return randomTree(rand.New(rand.NewPCG(seed, 2)), 500)
		}
	}
	for name, tree := range tests {
		t.Run(name, func(t *testing.T) {
			root, size := tree()
			meta, data := writeFiles(t, root, size)
			mnt := mount(t, meta, data)
			want := treeFacts(root)
			compare(t, kernelFacts(t, mnt, want), want)
			checkMisses(t, mnt, want)
			left := 2000 // of 100,000 files, that many will do
			for name, f := range want {
				if left--; left >= 0 && f.Mode&unix.S_IFMT == unix.S_IFREG {
					checkContents(t, filepath.Join(mnt, name), f)
				}
			}
		})
	}
}

// writeFiles writes the image of a tree, and a data file in which the blocks of its files are filled by fill.
func writeFiles(t *testing.T, root *Node, size int64) (meta, data string) {
	t.Helper()
	folder := t.TempDir()
	meta, data = filepath.Join(folder, "meta.erofs"), filepath.Join(folder, "data")
	if err := os.WriteFile(meta, image(t, root, size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, fact := range treeFacts(root) {
		for _, block := range samples(fact) {
			if _, err := f.WriteAt(fill(fact.Offset/blockSize+block), fact.Offset+block*blockSize); err != nil {
				t.Fatal(err)
			}
		}
	}
	return meta, data
}

// fill is the contents of a block of the address space.
func fill(block int64) []byte {
	return bytes.Repeat(le.AppendUint64(nil, uint64(block)*0x9e3779b97f4a7c15+1), blockSize/8)
}

// samples are the blocks of a file that are written and read: of a large one only some, both sides of 4 GiB too.
func samples(f facts) (blocks []int64) {
	if f.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	n := roundUp(f.Size, blockSize) / blockSize
	for i := range n {
		if i < 8 || i == n/2 || i >= n-2 || i == 1<<20 || i == 1<<20-1 {
			blocks = append(blocks, i)
		}
		if i == 8 && n > 1<<16 {
			return append(blocks, n/2, 1<<20-1, 1<<20, n-2, n-1)
		}
	}
	return blocks
}

func checkContents(t *testing.T, path string, want facts) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for _, block := range samples(want) {
		expected := fill(want.Offset/blockSize + block)[:min(blockSize, want.Size-block*blockSize)]
		got := make([]byte, len(expected))
		if _, err := f.ReadAt(got, block*blockSize); err != nil || !bytes.Equal(got, expected) {
			t.Errorf("%.80q: block %d: %v, or other bytes than it should have", path, block, err)
			return
		}
	}
}

// mount mounts an image for the length of the test. It skips the test only where the kernel has no EROFS, or only EROFS on block
// devices.
func mount(t *testing.T, meta, data string) string {
	t.Helper()
	mnt := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount(meta, mnt, "erofs", unix.MS_RDONLY, "device="+data)
	switch {
	case errors.Is(err, unix.ENODEV):
		t.Skip("this kernel has no EROFS")
	case errors.Is(err, unix.ENOTBLK):
		t.Skip("this kernel has no EROFS on plain files (Linux 6.12, CONFIG_EROFS_FS_BACKED_BY_FILE)")
	case err != nil:
		t.Fatalf("mount %s: %v", meta, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Errorf("unmount %s: %v", mnt, err)
		}
	})
	return mnt
}

// kernelFacts is what the kernel shows of the mount at mnt. Paths come from want, so that what is only in want is missed
// by lstat, and what is only in the mount by the entries of its directory.
func kernelFacts(t *testing.T, mnt string, want map[string]facts) map[string]facts {
	t.Helper()
	all := map[string]facts{}
	inodes := map[string]uint64{}
	for name := range want {
		f, ino, err := statFacts(filepath.Join(mnt, name))
		if err != nil {
			t.Errorf("%.80q: %v", name, err)
			continue
		}
		all[name], inodes[name] = f, ino
	}
	// Links are right if a path has the inode number of its group's first path, and every group its own.
	firsts := map[uint64]string{}
	for name, f := range want {
		if f.First == name {
			firsts[inodes[name]] = name
		}
	}
	for name, f := range all {
		f.First, f.Offset = firsts[inodes[name]], want[name].Offset
		all[name] = f
	}
	return all
}

func statFacts(path string) (f facts, ino uint64, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return f, 0, err
	}
	f = facts{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink),
		Sec: st.Mtim.Sec, Nsec: int(st.Mtim.Nsec), Rdev: st.Rdev, Size: st.Size,
	}
	xattrs, err := kernelXattrs(path)
	f.Xattrs = joinXattrs(xattrs)
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		f.Target, err = os.Readlink(path)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		f.Size = 0
		f.Entries, err = kernelEntries(path)
	}
	return f, st.Ino, err
}

func kernelEntries(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	names := []string{".", ".."}
	for _, d := range list {
		info, infoErr := d.Info()
		if infoErr == nil && info.Mode().Type() != d.Type() {
			infoErr = fmt.Errorf("%s is %v in its directory, %v in its inode", d.Name(), d.Type(), info.Mode())
		}
		err = errors.Join(err, infoErr)
		names = append(names, d.Name())
	}
	return joinNames(names), err
}

func kernelXattrs(path string) (map[string]string, error) {
	n, err := unix.Llistxattr(path, nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, n)
	if n, err = unix.Llistxattr(path, buf); err != nil {
		return nil, err
	}
	xattrs := map[string]string{}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(buf[:n], []byte{0}), []byte{0}) {
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return nil, fmt.Errorf("xattr %s: %w", name, err)
		}
		xattrs[string(name)] = string(value[:n])
	}
	return xattrs, nil
}

// checkMisses looks for names that are not there, in every directory.
func checkMisses(t *testing.T, mnt string, want map[string]facts) {
	t.Helper()
	for name, f := range want {
		if f.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		for _, missing := range []string{"\x01", "!!", "missing", "n-", "\xff\xff"} {
			path := filepath.Join(mnt, name, missing)
			if _, ok := want[filepath.Join(name, missing)]; ok {
				continue
			}
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%.80q: %v", path, err)
			}
		}
	}
}
