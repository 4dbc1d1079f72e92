package cache

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A recorded disk is a file on a FUSE mount of another process, under a loop device: each write that the kernel's file system makes is in a
// log before it is answered, and so is each flush of the disk's write cache. From that log images are made of what a disk may have when
// power goes at any moment: all up to the last flush, and any part of what was written since, in pieces of a sector.
//
// (This is what dm-log-writes does, where a kernel has a device mapper, but for the part about the disk's cache.)

// diskEnv makes the test binary the server of such a disk: folder to mount, image, log.
const diskEnv = "SLUICE_TEST_DISK"

// powerEnv makes the test binary one that tests in a mount and process namespace of its own: whatever becomes of it, the kernel unmounts all.
const powerEnv = "SLUICE_TEST_POWER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(diskEnv); spec != "" {
		fmt.Println(serveDisk(strings.Fields(spec)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// alone runs a test in namespaces of its own, and reports whether that is where it is.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(powerEnv) != "" {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v", "-test.timeout=25m")
	cmd.Env = append(os.Environ(), powerEnv+"=1", "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
		return false
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go:") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		t.Skip("see above")
	}
	return false
}

// A record of the log is a header, and the bytes of a write.
type diskRecord struct {
	Kind uint32
	Size uint32
	Off  int64
}

const (
	diskWrite = 1
	diskFlush = 2

	diskRecordSize = 16
)

// diskFile is the file of a recorded disk.
type diskFile struct {
	fusefs.Inode
	image *os.File
	size  int64

	mu  sync.Mutex
	log *os.File
}

func (d *diskFile) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size, out.Blksize = unix.S_IFREG|0o600, uint64(d.size), 4096
	return 0
}

func (d *diskFile) Setattr(ctx context.Context, f fusefs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return d.Getattr(ctx, f, out)
}

func (d *diskFile) Open(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (d *diskFile) Read(_ context.Context, _ fusefs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := d.image.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, unix.EIO
	}
	return fuse.ReadResultData(p[:n]), 0
}

func (d *diskFile) Write(_ context.Context, _ fusefs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.record(diskWrite, off, p); err != nil {
		return 0, unix.EIO
	}
	if _, err := d.image.WriteAt(p, off); err != nil {
		return 0, unix.EIO
	}
	return uint32(len(p)), 0
}

func (d *diskFile) Fsync(context.Context, fusefs.FileHandle, uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.record(diskFlush, 0, nil) != nil {
		return unix.EIO
	}
	return 0
}

func (d *diskFile) record(kind uint32, off int64, p []byte) error {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, diskRecordSize+len(p)), kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
	b = binary.LittleEndian.AppendUint64(b, uint64(off))
	_, err := d.log.Write(append(b, p...))
	return err
}

// serveDisk serves a recorded disk until its end.
func serveDisk(spec []string) error {
	image, err := os.OpenFile(spec[1], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := image.Stat()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(spec[2], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	root := new(fusefs.Inode)
	server, err := fusefs.Mount(spec[0], root, &fusefs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, MaxWrite: 1 << 20, FsName: "disk"},
		OnAdd: func(ctx context.Context) {
			disk := &diskFile{image: image, size: st.Size(), log: log}
			root.AddChild("disk", root.NewPersistentInode(ctx, disk, fusefs.StableAttr{Mode: unix.S_IFREG}), true)
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("serving")
	server.Wait()
	return errors.New("unmounted")
}

// recordedDisk is a file system on a recorded disk, mounted.
type recordedDisk struct {
	dir  string // where it is mounted
	log  string
	fuse string
	disk *exec.Cmd
}

// mountOptions are those that a file system needs beside its own copies.
func mountOptions(kind string) []string {
	if kind == "xfs" {
		return []string{"-o", "loop,nouuid"}
	}
	return []string{"-o", "loop"}
}

// mustRun runs a program that has worked before.
func mustRun(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v %s", name, args, err, out)
	}
}

// sectorOf is what a file system takes for granted that a disk writes as one. XFS says 512, but cannot replay its log where half a block of a
// directory was written.
func sectorOf(kind string) int64 {
	if kind == "xfs" {
		return 4096
	}
	return 512
}

// makeImage makes a file system in a file.
func makeImage(t *testing.T, kind, image string) {
	t.Helper()
	switch kind {
	case "ext4":
		runTool(t, "truncate", "-s", "160M", image)
		runTool(t, "mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=8", image)
	case "xfs":
		runTool(t, "truncate", "-s", "304M", image) // no smaller one is made
		runTool(t, "mkfs.xfs", "-q", image)
	}
}

// mountRecorded mounts an image, and records from then on what is written to it.
func mountRecorded(t *testing.T, kind, image string) *recordedDisk {
	t.Helper()
	work := t.TempDir()
	d := &recordedDisk{dir: filepath.Join(work, "mnt"), fuse: filepath.Join(work, "fuse"), log: filepath.Join(work, "log")}
	if err := errors.Join(os.Mkdir(d.dir, 0o700), os.Mkdir(d.fuse, 0o700)); err != nil {
		t.Fatal(err)
	}
	d.disk = exec.Command(os.Args[0])
	d.disk.Env = append(os.Environ(), diskEnv+"="+strings.Join([]string{d.fuse, image, d.log}, " "))
	d.disk.Stderr = os.Stderr
	d.disk.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := d.disk.StdoutPipe()
	if err == nil {
		err = d.disk.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "serving\n" {
		t.Fatalf("disk: %q, %v", line, err)
	}
	runTool(t, "mount", append(mountOptions(kind), filepath.Join(d.fuse, "disk"), d.dir)...)
	return d
}

// written is how long the log is: what is durable now is in what was written until now.
func (d *recordedDisk) written(t *testing.T) int64 {
	t.Helper()
	st, err := os.Stat(d.log)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// stop unmounts the disk.
func (d *recordedDisk) stop(t *testing.T) {
	t.Helper()
	for _, dir := range []string{d.dir, d.fuse} {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatalf("unmount %s: %v", dir, err)
		}
	}
	_ = d.disk.Wait() // it ends with its mount
}

// replay goes through a log, with an image that has what is durable.
type replay struct {
	log   *os.File
	image *os.File
	at    int64         // in the log: what comes before is in the image
	cache []diskPending // was written since
}

type diskPending struct {
	diskRecord
	at int64 // of the bytes in the log
}

// advance goes on up to a place in the log.
func (r *replay) advance(t *testing.T, to int64) {
	t.Helper()
	for {
		var h [diskRecordSize]byte
		if _, err := r.log.ReadAt(h[:], r.at); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		rec := diskRecord{
			Kind: binary.LittleEndian.Uint32(h[:]), Size: binary.LittleEndian.Uint32(h[4:]), Off: int64(binary.LittleEndian.Uint64(h[8:])),
		}
		end := r.at + diskRecordSize + int64(rec.Size)
		if end > to {
			return
		}
		if rec.Kind == diskWrite {
			r.cache = append(r.cache, diskPending{rec, r.at + diskRecordSize})
		} else {
			for _, p := range r.cache {
				r.write(t, r.image, p, 0, int64(p.Size))
			}
			r.cache = nil
		}
		r.at = end
	}
}

func (r *replay) write(t *testing.T, image *os.File, p diskPending, from, to int64) {
	t.Helper()
	b := make([]byte, to-from)
	_, err := r.log.ReadAt(b, p.at+from)
	if err == nil {
		_, err = image.WriteAt(b, p.Off+from)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// crash makes image what the disk may have if power goes now: of what was not flushed, all, nothing, whole writes, or sectors.
func (r *replay) crash(t *testing.T, image string, sector int64, rnd *rand.Rand) {
	t.Helper()
	mustRun(t, "cp", "--sparse=always", "--reflink=auto", r.image.Name(), image)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	share := []float64{0, 1, rnd.Float64(), rnd.Float64()}[rnd.IntN(4)]
	unit := []int64{1 << 30, 4096, sector}[rnd.IntN(3)]
	for _, p := range r.cache {
		for from := int64(0); from < int64(p.Size); from += unit {
			if rnd.Float64() < share {
				r.write(t, f, p, from, min(from+unit, int64(p.Size)))
			}
		}
	}
}
