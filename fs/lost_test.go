package fs

import (
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLost: whoever has an FS learns that it was cut off, and is not told so by Close.
func TestLost(t *testing.T) {
	for i := range 2 {
		n := newNode(t, Options{Mode: FUSE})
		select {
		case <-n.Lost():
			t.Fatal("lost from the beginning")
		default:
		}
		if err := unix.Unmount(n.server.connections()[i].dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		await(t, "loss", n.Lost())
	}

	n := newNode(t, Options{Mode: FUSE})
	f := n.FS
	n.close(t)
	select {
	case <-f.Lost():
		t.Error("closed, but said to be lost")
	default:
	}
}

// TestLostLazily: so does who mounts a layer, or asks for one, when the mount was taken away from under those who use it. They go on.
func TestLostLazily(t *testing.T) {
	l, other := buildBlob(t, []file{regular("file", noise(1, 1000))}), buildBlob(t, []file{regular("file", noise(2, 1000))})
	for _, mode := range []Mode{EROFS, Loop, FUSE} {
		t.Run(string(mode), func(t *testing.T) {
			r := newRegistry(t, l, other)
			n := newNode(t, Options{Mode: mode, NoNative: true})
			path := n.mountLayer(t, r.source(l))
			kept := t.TempDir()
			if err := unix.Mount(path, kept, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(kept, unix.MNT_DETACH) })
			connections := n.server.connections()
			if err := unix.Unmount(connections[len(connections)-1].dir, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			err := n.Mount(t.Context(), r.source(other))
			if err == nil { // a tree needs no mount of its own
				_, err = n.Path(other.digest, "holder")
			}
			if !errors.Is(err, errCutOff) {
				t.Errorf("another layer: %v", err)
			}
			await(t, "loss", n.Lost())
			compare(t, kept, l.files)
			n.close(t)
		})
	}
}

// TestUnmountedByOthers: whoever asks for a layer gets no empty folder when somebody has unmounted it.
func TestUnmountedByOthers(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	for _, kind := range everyKind {
		if kind.mode == FUSE { // whose folders are not mounts
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			n := newNode(t, Options{Mode: kind.mode, NoNative: kind.noNative, Background: true})
			n.mountLayer(t, newRegistry(t, l).source(l))
			n.settled(t, l)
			path := n.path(t, l, "first")
			for _, removed := range []bool{false, true} {
				if err := unix.Unmount(path, 0); err != nil {
					t.Fatal(err)
				}
				if removed {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				}
				if again := n.path(t, l, "second"); again != path {
					t.Errorf("the layer is at %s, was at %s", again, path)
				}
				compare(t, path, l.files)
			}
			if points, err := mountPoints(); err != nil || len(slices.DeleteFunc(points, func(p string) bool { return p != path })) != 1 {
				t.Errorf("mounted at %s: %q, %v", path, points, err)
			}
		})
	}
}
