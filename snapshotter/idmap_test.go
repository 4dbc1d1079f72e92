package snapshotter

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestParseIDMap(t *testing.T) {
	for _, test := range []struct {
		name, uids, gids string
		want             *idMap
		err              string // part of it; the label that it names is in bad
		bad              string
	}{
		{name: "none"},
		{name: "one range", uids: "0:100000:65536", gids: "0:200000:65536", want: &idMap{
			uids: []idRange{{0, 100_000, 65_536}}, gids: []idRange{{0, 200_000, 65_536}},
		}},
		{name: "more ranges", uids: "0:1000:1,1:100000:65535", gids: "5:6:1,0:0:1", want: &idMap{
			uids: []idRange{{0, 1000, 1}, {1, 100_000, 65_535}}, gids: []idRange{{5, 6, 1}, {0, 0, 1}},
		}},
		{name: "all ids", uids: "0:0:4294967295", gids: "0:0:4294967295", want: &idMap{
			uids: []idRange{{0, 0, 4_294_967_295}}, gids: []idRange{{0, 0, 4_294_967_295}},
		}},
		{name: "no gids", uids: "0:100000:65536", bad: snapshots.LabelSnapshotGIDMapping, err: `"" is not container:host:size`},
		{name: "no uids", gids: "0:100000:65536", bad: snapshots.LabelSnapshotUIDMapping, err: `"" is not container:host:size`},
		{name: "two fields", uids: "0:1", gids: "0:1:1", bad: snapshots.LabelSnapshotUIDMapping, err: `"0:1" is not container:host:size`},
		{name: "no number", uids: "0:1:1", gids: "0:x:1", bad: snapshots.LabelSnapshotGIDMapping, err: `parsing "x"`},
		{name: "negative", uids: "0:-1:1", gids: "0:1:1", bad: snapshots.LabelSnapshotUIDMapping, err: `parsing "-1"`},
		{name: "too large", uids: "0:1:4294967295", gids: "0:1:1", bad: snapshots.LabelSnapshotUIDMapping, err: "size is not from 1 to 4294967294"},
		{name: "empty range", uids: "0:1:0", gids: "0:1:1", bad: snapshots.LabelSnapshotUIDMapping, err: "size is not from 1 to"},
		{name: "a comma at the end", uids: "0:1:1,", gids: "0:1:1", bad: snapshots.LabelSnapshotUIDMapping, err: `"" is not container:host:size`},
		{name: "without root", uids: "0:1:1", gids: "1:1:1", bad: snapshots.LabelSnapshotGIDMapping, err: "0 is not mapped"},
		{name: "an option", uids: "0:1:1", gids: "0:1:1,index=on", bad: snapshots.LabelSnapshotGIDMapping, err: `"index=on" is not`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseIDMap(map[string]string{snapshots.LabelSnapshotUIDMapping: test.uids, snapshots.LabelSnapshotGIDMapping: test.gids})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), "label "+test.bad+"=") || !strings.Contains(err.Error(), test.err) || !errdefs.IsInvalidArgument(err) {
					t.Errorf("got %v, want label %s, %q", err, test.bad, test.err)
				}
				return
			}
			if test.want != nil {
				test.want.uidLabel, test.want.gidLabel = test.uids, test.gids
			}
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
}

func TestOwner(t *testing.T) {
	m := idMap{uids: []idRange{{0, 1000, 1}, {1, 100_000, 99}}, gids: []idRange{{0, 2000, 10}}}
	for _, test := range []struct{ uid, gid, hostUID, hostGID uint32 }{
		{0, 0, 1000, 2000},
		{1, 9, 100_000, 2009},
		{99, 0, 100_098, 2000},
		{100, 5, 1000, 2000}, // root's, as the user is nobody there
		{5, 10, 1000, 2000},
	} {
		if uid, gid := m.owner(test.uid, test.gid); uid != test.hostUID || gid != test.hostGID {
			t.Errorf("%d:%d is %d:%d, want %d:%d", test.uid, test.gid, uid, gid, test.hostUID, test.hostGID)
		}
	}
}

func TestCommonFolder(t *testing.T) {
	for want, dirs := range map[string][]string{
		"/run/state/m":    {"/run/state/m/1"},
		"/run/state/m/7":  {"/run/state/m/7/12", "/run/state/m/7/1", "/run/state/m/7/3"},
		"/run/state/m/12": {"/run/state/m/12/1", "/run/state/m/12/s/4/fs"},
		"/run/state":      {"/run/state/fuse/1", "/run/state/bare/2", "/run/state/fuse/3"},
		"/snapshots":      {"/snapshots/1/fs", "/snapshots/12/fs"},
		"/":               {"/run/m/1", "/var/m/1"},
	} {
		if got := commonFolder(dirs); got != want {
			t.Errorf("%s of %q, want %s", got, dirs, want)
		}
	}
}

// TestCannotMap has file systems that cannot be mounted with other ids: as the
// folder of the layers, as one of them, and mounted beside and among them.
func TestCannotMap(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	m, err := parseIDMap(map[string]string{snapshots.LabelSnapshotUIDMapping: "0:1000:10", snapshots.LabelSnapshotGIDMapping: "0:1000:10"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, ramfs string // the latter below the folder of the layers
		want        string // with the path of the ramfs, or of the folder
	}{
		{"folder", ".", "%s, which is ramfs, cannot be mounted with other ids"},
		{"layer", "2", "%s, which is ramfs, cannot be mounted with other ids"},
		{"beside", "../other", ""},
		{"inside", "other", "something in %s cannot be mounted with other ids"},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder := filepath.Join(t.TempDir(), "layers")
			ramfs := filepath.Join(folder, test.ramfs)
			mountRamfs(t, ramfs)
			dirs := []string{filepath.Join(folder, "1"), filepath.Join(folder, "2")}
			for _, dir := range dirs {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			err := m.try(dirs)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			named := ramfs
			if test.name == "inside" {
				named = folder
			}
			if want := fmt.Sprintf(test.want, named); !errdefs.IsNotImplemented(err) ||
				!strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "remap-ids") {
				t.Errorf("got %v, want NotImplemented, %q and what to do", err, want)
			}
		})
	}
	if err := m.try([]string{"/proc", "/sys"}); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "/proc and /sys have no folder in common") {
		t.Errorf("got %v, want NotImplemented, with the folders", err)
	}
}

// mountRamfs mounts a file system that knows no other ids.
func mountRamfs(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// FuzzIDMap checks that what is accepted means what it says.
func FuzzIDMap(f *testing.F) {
	f.Add("0:100000:65536")
	f.Add("0:1000:1,1:100000:65535")
	f.Add("4294967294:0:1,0:4294967294:1")
	f.Fuzz(func(t *testing.T, text string) {
		r := labelReader{labels: map[string]string{"l": text}}
		ranges := r.idRanges("l")
		if r.err != nil {
			return
		}
		var again []string
		for _, part := range ranges {
			again = append(again, fmt.Sprintf("%d:%d:%d", part.container, part.host, part.size))
			last := part.container + part.size - 1
			if last < part.container || part.host+part.size-1 < part.host {
				t.Fatalf("%q: %+v wraps around", text, part)
			}
			if _, ok := toHost(ranges, last); !ok {
				t.Fatalf("%q: %d is not mapped", text, last)
			}
		}
		second := labelReader{labels: map[string]string{"l": strings.Join(again, ",")}}
		if got := second.idRanges("l"); second.err != nil || !reflect.DeepEqual(got, ranges) {
			t.Fatalf("%q: read back %+v, %v", text, got, second.err)
		}
	})
}
