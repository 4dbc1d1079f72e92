package fs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProbeFullDisk: a node whose disk is full starts, and its layers are mounted.
func TestProbeFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(disk, "filler"), bytes.Repeat([]byte{1}, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill: %v", err)
	}
	if _, err := tryMounts(t.Context(), Options{Mode: Loop, MountDir: t.TempDir(), ProbeDir: t.TempDir()}); err != nil {
		t.Skip(err)
	}
	for _, mode := range []Mode{Auto, EROFS, Loop} {
		ctx, lines := logged(t)
		m, err := chooseMount(ctx, Options{Mode: mode, MountDir: t.TempDir(), ProbeDir: disk})
		if err != nil || m == nil {
			t.Errorf("mode %s: %v, %v", mode, m, err)
		}
		if !strings.Contains(lines.String(), "the disk is full") {
			t.Errorf("mode %s: the log does not say so:\n%s", mode, lines)
		}
	}
	if left := walk1(t, disk); len(left) != 1 {
		t.Errorf("the probe left %q", left)
	}
}
