package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os/exec"
	"path"
	"strings"
	"testing"

	erofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
)

// go-erofs reads the same out of an image as this package puts into it.
func TestGoErofs(t *testing.T) {
	tests := map[string]*Node{
		"everything":  sampleTree(),
		"10000 files": wideTree(10_000),
	}
	for seed := range uint64(10) {
		tests[fmt.Sprint("random ", seed)], _ = randomTree(rand.New(rand.NewPCG(seed, 3)), 300)
	}
	for name, root := range tests {
		t.Run(name, func(t *testing.T) {
			data := image(t, root, sampleSize)
			fsys, err := erofs.Open(bytes.NewReader(data), erofs.WithExtraDevices(bytes.NewReader(nil)))
			if err != nil {
				t.Fatal(err)
			}
			compare(t, erofsFacts(t, fsys), treeFacts(root))
		})
	}
}

func erofsFacts(t *testing.T, fsys fs.FS) map[string]facts {
	t.Helper()
	all := map[string]facts{}
	firsts := map[int64]string{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := fs.Lstat(fsys, name)
		if err != nil {
			return err
		}
		st := info.Sys().(*erofs.Stat)
		f, err := erofsFact(fsys, name, info, st)
		name = path.Join("/", name)
		if _, ok := firsts[st.Ino]; !ok {
			firsts[st.Ino] = name
		}
		f.First = firsts[st.Ino]
		all[name] = f
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func erofsFact(fsys fs.FS, name string, info fs.FileInfo, st *erofs.Stat) (f facts, err error) {
	f = facts{
		Mode: unixMode(info.Mode()), UID: st.UID, GID: st.GID, Nlink: uint32(st.Nlink),
		Sec: int64(st.Mtime), Nsec: int(st.MtimeNs), Rdev: uint64(st.Rdev), Size: info.Size(),
	}
	xattrs := map[string]string{}
	for k, v := range st.Xattrs {
		if strings.HasPrefix(k, "system.") {
			k = strings.TrimSuffix(k, ".") // go-erofs 0.3.1 has a dot too many in the names of ACLs
		}
		xattrs[k] = v
	}
	f.Xattrs = joinXattrs(xattrs)
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		f.Target, err = fs.ReadLink(fsys, name)
	case unix.S_IFDIR:
		f.Size = 0
		list, listErr := fs.ReadDir(fsys, name)
		names := []string{".", ".."}
		for _, d := range list {
			names = append(names, d.Name())
		}
		f.Entries, err = joinNames(names), listErr
	case unix.S_IFREG:
		f.Offset, err = erofsOffset(info)
	}
	return f, err
}

func erofsOffset(info fs.FileInfo) (int64, error) {
	if info.Size() == 0 {
		return 0, nil
	}
	ranges := info.(interface{ DataRange() []erofs.DataRange }).DataRange()
	if len(ranges) != 1 || ranges[0].Size != info.Size() {
		return 0, fmt.Errorf("%s: ranges %v", info.Name(), ranges)
	}
	return ranges[0].Offset, nil
}

// unixMode is st_mode. go-erofs 0.3.1 leaves setuid, setgid and sticky where stat has them, not where package fs does.
func unixMode(m fs.FileMode) uint32 {
	types := map[fs.FileMode]uint32{
		0: unix.S_IFREG, fs.ModeDir: unix.S_IFDIR, fs.ModeSymlink: unix.S_IFLNK, fs.ModeNamedPipe: unix.S_IFIFO,
		fs.ModeSocket: unix.S_IFSOCK, fs.ModeDevice: unix.S_IFBLK, fs.ModeDevice | fs.ModeCharDevice: unix.S_IFCHR,
	}
	return uint32(m)&modeBits | types[m.Type()]
}

// fsck.erofs finds nothing wrong, where it is installed (Debian: erofs-utils).
func TestFsck(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("fsck.erofs is not installed (erofs-utils)")
	}
	tests := map[string]func() (*Node, int64){
		"only the root": func() (*Node, int64) { return dir(0o700, nil), 0 },
		"everything":    func() (*Node, int64) { return sampleTree(), sampleSize },
		"10000 files":   func() (*Node, int64) { return wideTree(10_000), 10_000 << 12 },
	}
	for seed := range uint64(6) {
		tests[fmt.Sprint("random ", seed)] = func() (*Node, int64) {
			return randomTree(rand.New(rand.NewPCG(seed, 4)), 300)
		}
	}
	for name, tree := range tests {
		t.Run(name, func(t *testing.T) {
			root, size := tree()
			meta, data := writeFiles(t, root, size)
			args := []string{"--device=" + data, meta}
			if size < gib {
				args = append(args, "--extract") // reads the files too, holes and all
			}
			out, err := exec.CommandContext(t.Context(), fsck, args...).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
