package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
		want string // in the error, "" for none
	}{
		{"zero", Options{StateDir: "/s"}, ""},
		{"no folder", Options{}, `folder ""`},
		{"relative", Options{StateDir: "s"}, "absolute"},
		{"comma", Options{StateDir: "/s,x"}, "comma"},
		{"colon", Options{StateDir: "/s", MountDir: "/m:x"}, "colon"},
		{"mode", Options{StateDir: "/s", Mode: "ext4"}, `mode "ext4": not one of auto, erofs, loop, fuse`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.o.withDefaults()
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error is %v, want %q in it", err, c.want)
				}
				return
			}
			if err != nil || got.MountDir != "/s/mounts" || got.ProbeDir != "/s/mounts" || got.Mode != Auto || got.Scheduler == nil {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestNoFUSE(t *testing.T) {
	_, err := openDevice(filepath.Join(t.TempDir(), "fuse"))
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "modprobe fuse") {
		t.Errorf("error is %v", err)
	}
}

// TestNoFiles makes the probe fail by a store on a tmpfs, from which the kernel does not mount files: loop devices do.
func TestNoFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	tmpfs := t.TempDir()
	if err := unix.Mount("tmpfs", tmpfs, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(tmpfs, unix.MNT_DETACH) })
	o := Options{MountDir: tmpfs, ProbeDir: tmpfs}
	switch refusal, err := probeEROFS(o, erofsImage{}); {
	case err != nil:
		t.Fatal(err)
	case refusal == nil:
		t.Skip("this kernel mounts EROFS from a tmpfs")
	}
	if refusal, err := probeEROFS(o, erofsImage{loop: true}); err != nil || refusal != nil {
		t.Skip(refusal, err)
	}
	for _, mode := range []Mode{Auto, EROFS, Loop} {
		n := newNode(t, Options{Mode: mode, ProbeDir: tmpfs})
		if n.erofs == nil || !n.erofs.loop {
			t.Errorf("mode %s does not use loop devices", mode)
		}
	}
	if n := newNode(t, Options{Mode: FUSE, ProbeDir: tmpfs}); n.erofs != nil {
		t.Error("mode fuse uses EROFS")
	}
	if _, err := tryNode(t.Context(), t.TempDir(), Options{ProbeDir: "/nonexistent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if left := walk1(t, tmpfs); len(left) != 0 {
		t.Errorf("the probe left %q", left)
	}
}

// TestNoEROFS has every probe fail, by an image that is none.
func TestNoEROFS(t *testing.T) {
	refused := errors.Join(errors.New("no file"), errors.New("no loop device"))
	if m, err := withoutEROFS(t.Context(), Auto, refused); m != nil || err != nil {
		t.Errorf("mode auto: %v, %v", m, err)
	}
	for _, mode := range []Mode{EROFS, Loop} {
		if _, err := withoutEROFS(t.Context(), mode, refused); err == nil || !strings.Contains(err.Error(), "mode "+string(mode)) || !errors.Is(err, refused) {
			t.Errorf("mode %s: %v", mode, err)
		}
	}
}

// TestLeftovers: New clears its own folders, and nothing beside them.
func TestLeftovers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	root := t.TempDir()
	ours := []string{
		"state/fuse", "state/bare", "state/mounts/7", "state/mounts/7/nested dir", "state/mounts/8n",
		"state/mounts/p1z/7", "state/mounts/p1z/s", "state/mounts/p20.gone/9n",
	}
	others := []string{"state/fuse2", "state/bare2", "state/mountsx", "other"}
	for _, name := range slices.Concat(ours, others) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", path, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	}
	if err := clearLeftovers(filepath.Join(root, "state/mounts"), served(filepath.Join(root, "state"))...); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, name := range others {
		want = append(want, filepath.Join(root, name))
	}
	if got := mountsBelow(t, root); !slices.Equal(got, want) {
		t.Errorf("mounts are %q, want %q", got, want)
	}
	if left := walk1(t, filepath.Join(root, "state/mounts")); len(left) != 0 {
		t.Errorf("mount points left: %q", left)
	}
}

func TestParseMountinfo(t *testing.T) {
	const text = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n" +
		`36 21 0:32 / /run/with\040space\011tab\134back rw - tmpfs t rw` + "\n" +
		"37 21 0:33 / /run/bad\\09x\\ rw - fuse.sluice sluice rw\n"
	want := []string{"/", "/run/with space\ttab\\back", `/run/bad\09x\`}
	if got, err := parseMountinfo(strings.NewReader(text)); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if _, err := parseMountinfo(strings.NewReader("36 21 0:32\n")); err == nil {
		t.Error("a short line is no error")
	}
}

// FuzzUnescape: what the kernel escapes comes back as it was.
func FuzzUnescape(f *testing.F) {
	f.Add("/a b\tc\nd\\e")
	f.Add("\\040")
	f.Fuzz(func(t *testing.T, path string) {
		var escaped strings.Builder
		for i := range len(path) {
			if strings.IndexByte(" \t\n\\#", path[i]) >= 0 {
				fmt.Fprintf(&escaped, "\\%03o", path[i])
			} else {
				escaped.WriteByte(path[i])
			}
		}
		if got := unescape(escaped.String()); got != path {
			t.Errorf("%q became %q", path, got)
		}
		unescape(path)
	})
}

// TestReadAhead: what may have to be fetched is read ahead as far as was asked for, in EROFS mounts no further than is good for faults.
func TestReadAhead(t *testing.T) {
	if _, err := os.Stat(bdiDir); err != nil {
		t.Skip(err)
	}
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	for _, kib := range []int{60, 1536} {
		t.Run(strconv.Itoa(kib), func(t *testing.T) {
			inModes(t, func(t *testing.T, mode Mode) {
				before := listBDIs()
				n := newNode(t, Options{Mode: mode, ReadAheadKiB: kib})
				want := kib
				if mode != FUSE {
					want = min(kib, lazyReadAheadKiB)
				}
				path := n.mountLayer(t, newRegistry(t, l).source(l))
				var names []string
				if mode == EROFS {
					for name := range listBDIs() {
						if !before[name] {
							names = append(names, name)
						}
					}
				} else {
					var st unix.Stat_t
					if err := unix.Stat(path, &st); err != nil {
						t.Fatal(err)
					}
					names = []string{fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))}
				}
				// EROFS mounts that other test processes made meanwhile are among them.
				found := slices.ContainsFunc(names, func(name string) bool {
					b, err := os.ReadFile(filepath.Join(bdiDir, name, readAheadName))
					return err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(want)
				})
				if !found {
					t.Errorf("none of the backing devices %v reads ahead by %d KiB", names, want)
				}
			})
		})
	}
}

// TestCompleteReadAhead: mounts of a layer that is complete, the lazy one too, read ahead as far as its disk, if that is more than what was
// asked for. So does one that was mounted again, as somebody had unmounted it.
func TestCompleteReadAhead(t *testing.T) {
	for _, noNative := range []bool{false, true} {
		t.Run(fmt.Sprintf("native %t", !noNative), func(t *testing.T) {
			l := buildBlob(t, []file{regular("file", noise(1, 1000))})
			n := newNode(t, Options{Mode: Loop, ReadAheadKiB: 4, Background: true, NoNative: noNative})
			n.mountLayer(t, newRegistry(t, l).source(l))
			m := n.settled(t, l)
			disk := diskReadAhead(m.shown.layer.Store().DataPath())
			if disk <= 4 {
				t.Skipf("the disk of the store is read ahead by %d KiB", disk)
			}
			// The mount's readahead is that of the loop device below it, which can be looked at as a disk is.
			path := n.path(t, l, "reader")
			if got := diskReadAhead(path); got != disk {
				t.Errorf("readahead is %d KiB, the disk's is %d", got, disk)
			}
			if err := unix.Unmount(path, 0); err != nil {
				t.Fatal(err)
			}
			if got := diskReadAhead(n.path(t, l, "next")); got != disk {
				t.Errorf("readahead is %d KiB in the mount that came after, the disk's is %d", got, disk)
			}
		})
	}
	if got := diskReadAhead("/nonexistent"); got != 0 {
		t.Errorf("%d KiB without a file", got)
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{
		{nil, 0},
		{fmt.Errorf("x: %w", context.Canceled), unix.EINTR},
		{fmt.Errorf("x: %w", os.ErrNotExist), unix.ENOENT},
		{fmt.Errorf("x: %w", metadata.ErrNoXattr), unix.ENODATA},
		{fmt.Errorf("x: %w", metadata.ErrCorrupt), unix.EIO},
		{fmt.Errorf("x: %w", unix.ERANGE), unix.ERANGE},
		{fmt.Errorf("x: %w", unix.ECONNREFUSED), unix.EIO}, // of the registry, not of the file
		{fmt.Errorf("x: %w", unix.ENOSPC), unix.EIO},
	} {
		if got := errno(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

func TestFaults(t *testing.T) {
	var f faults
	now := time.Now()
	for _, c := range []struct {
		name       string
		cause      string
		after      time.Duration
		suppressed int
		ok         bool
	}{
		{"first", "a", 0, 0, true},
		{"again", "a", time.Second, 0, false},
		{"another", "b", time.Second, 0, true},
		{"and again", "a", quiet - 1, 0, false},
		{"later", "a", quiet, 2, true},
		{"after that", "a", quiet + 1, 0, false},
	} {
		if n, ok := f.admit(c.cause, now.Add(c.after)); n != c.suppressed || ok != c.ok {
			t.Errorf("%s: %d, %v; want %d, %v", c.name, n, ok, c.suppressed, c.ok)
		}
	}
	for i := range 10 * maxCauses {
		f.admit(strconv.Itoa(i), now)
	}
	if len(f.last) > maxCauses {
		t.Errorf("%d causes are remembered", len(f.last))
	}
	joined := fmt.Errorf("x: %w", errors.Join(fmt.Errorf("y: %w", os.ErrExist), os.ErrClosed))
	if got := rootCause(joined); got != os.ErrExist.Error() {
		t.Errorf("root cause is %q", got)
	}
}

func TestTasks(t *testing.T) {
	var tk tasks
	ended := make(chan struct{})
	if _, ok := tk.start(t.Context(), func(ctx context.Context) { <-ctx.Done(); close(ended) }); !ok {
		t.Fatal("did not start")
	}
	stop, ok := tk.start(t.Context(), func(ctx context.Context) { <-ctx.Done() })
	if !ok {
		t.Fatal("did not start")
	}
	stop()
	tk.close()
	await(t, "task", ended)
	if _, ok := tk.start(t.Context(), func(context.Context) { t.Error("runs") }); ok {
		t.Error("started after close")
	}
	tk.close()
}
