package snapshotter

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// idMap is how the ids of a user namespace lie among the host's. containerd
// says so by two labels on the snapshot of a container. If its configuration
// gives the proxy plugin the capability remap-ids, the rest is left to the
// snapshotter; if not, containerd has made a copy of the image in which every
// file has its owner on the host, and gives that as the parent.
type idMap struct {
	uidLabel, gidLabel string
	uids, gids         []idRange
}

// idRange maps size ids from container on to those from host on.
type idRange struct{ container, host, size uint32 }

// idMapFor returns the mapping through which the directories below a snapshot
// with these labels are to be seen; nil if as they are. Errors: *LabelError.
func idMapFor(labels map[string]string, lowers []lower) (*idMap, error) {
	m, err := parseIDMap(labels)
	if m == nil || err != nil {
		return nil, err
	}
	if copied, err := m.copied(lowers); copied || err != nil {
		return nil, err
	}
	return m, nil
}

// parseIDMap reads the labels of a snapshot; nil without them. containerd would
// take one without the other for none.
func parseIDMap(labels map[string]string) (*idMap, error) {
	uidmap, gidmap := snapshots.LabelSnapshotUIDMapping, snapshots.LabelSnapshotGIDMapping
	if labels[uidmap] == "" && labels[gidmap] == "" {
		return nil, nil
	}
	r := labelReader{labels: labels}
	m := &idMap{uidLabel: labels[uidmap], gidLabel: labels[gidmap], uids: r.idRanges(uidmap), gids: r.idRanges(gidmap)}
	if r.err != nil {
		return nil, fmt.Errorf("%w: %w", r.err, errdefs.ErrInvalidArgument)
	}
	return m, nil
}

// idRanges reads the mapping in a label: "container:host:size", more of them
// after commas. User 0 has to be among the ids, as whose the container begins.
func (r *labelReader) idRanges(label string) (ranges []idRange) {
	for _, text := range strings.Split(r.labels[label], ",") {
		parsed, err := parseIDRange(text)
		if err != nil {
			r.fail(label, err)
			return nil
		}
		ranges = append(ranges, parsed)
	}
	if _, ok := toHost(ranges, 0); !ok {
		r.fail(label, errors.New("0 is not mapped"))
	}
	return ranges
}

func parseIDRange(text string) (idRange, error) {
	var n [3]uint32
	fields := strings.Split(text, ":")
	if len(fields) != len(n) {
		return idRange{}, fmt.Errorf("%q is not container:host:size", text)
	}
	for i, f := range fields {
		v, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return idRange{}, fmt.Errorf("%q: %w", text, err)
		}
		n[i] = uint32(v)
	}
	r := idRange{container: n[0], host: n[1], size: n[2]}
	// The last id there is means none.
	if most := math.MaxUint32 - max(r.container, r.host); r.size == 0 || r.size > most {
		return idRange{}, fmt.Errorf("%q: size is not from 1 to %d", text, most)
	}
	return r, nil
}

func toHost(ranges []idRange, id uint32) (uint32, bool) {
	for _, r := range ranges {
		if id >= r.container && id-r.container < r.size {
			return r.host + (id - r.container), true
		}
	}
	return 0, false
}

// owner is whom a file of uid and gid belongs to on the host; root's, if the
// user namespace has no such ids.
func (m *idMap) owner(uid, gid uint32) (hostUID, hostGID uint32) {
	hostUID, okUID := toHost(m.uids, uid)
	hostGID, okGID := toHost(m.gids, gid)
	if !okUID || !okGID {
		hostUID, _ = toHost(m.uids, 0)
		hostGID, _ = toHost(m.gids, 0)
	}
	return hostUID, hostGID
}

// copied says whether containerd has copied the image: then what is below is
// a local snapshot whose root directory belongs to the container's root.
func (m *idMap) copied(lowers []lower) (bool, error) {
	if len(lowers) == 0 || lowers[0].remote {
		return false, nil
	}
	uid, gid, err := ownerOf(lowers[0].path)
	hostUID, hostGID := m.owner(0, 0)
	return uid == hostUID && gid == hostGID, err
}

// options make containerd mount the lower directories through the mapping.
func (m *idMap) options() []string {
	return []string{"uidmap=" + m.uidLabel, "gidmap=" + m.gidLabel}
}

// withoutRemap is what to do where ids cannot be mapped.
const withoutRemap = "take remap-ids from the capabilities of the proxy plugin in containerd's configuration, so that it copies images instead"

// try does what containerd does with the lower directories of an overlay
// (core/mount/mount_linux.go), before there is a snapshot on which it would
// fail: it maps a copy of the folder that they have in common, with all that
// is mounted in it. Errors: ErrNotImplemented.
func (m *idMap) try(dirs []string) error {
	if ok, err := overlayutils.SupportsIDMappedMounts(); !ok {
		return errors.Join(fmt.Errorf("overlayfs cannot show other ids before Linux 5.19: %s: %w", withoutRemap, errdefs.ErrNotImplemented), err)
	}
	folder := commonFolder(dirs)
	if folder == "/" {
		return fmt.Errorf("%s have no folder in common, which containerd could mount with other ids: %s: %w",
			strings.Join(dirs, " and "), withoutRemap, errdefs.ErrNotImplemented)
	}
	ns, err := mount.GetUsernsFD(m.uidLabel, m.gidLabel)
	if err != nil {
		return fmt.Errorf("user namespace of uids %s and gids %s: %w", m.uidLabel, m.gidLabel, err)
	}
	defer ns.Close()
	if err := tryIDMap(ns, folder, unix.AT_RECURSIVE); err != nil {
		return cannotMap(ns, append([]string{folder}, dirs...), err)
	}
	return nil
}

// commonFolder is the folder that containerd maps for the lower directories.
func commonFolder(dirs []string) string {
	first, last := slices.Min(dirs), slices.Max(dirs)
	n := 0
	for n < min(len(first), len(last)) && first[n] == last[n] {
		n++
	}
	return path.Dir(first[:n])
}

// cannotMap says which of the folders cannot be mapped. err is that of the
// first with all that is mounted in it, which may be what cannot.
func cannotMap(ns *os.File, folders []string, err error) error {
	name := "something in " + folders[0]
	for _, folder := range folders {
		if only := tryIDMap(ns, folder, 0); only != nil {
			name, err = folder, only
			if info, err := mount.Lookup(folder); err == nil {
				name += ", which is " + info.FSType + ","
			}
			break
		}
	}
	return fmt.Errorf("%s cannot be mounted with other ids, as containerd does with %s "+
		"(EROFS can since Linux 5.19, FUSE since 6.12; for the state directory, ext4, xfs and btrfs can, and tmpfs since 6.3): "+
		"move it if it is the state directory, or %s: %w: %w", name, folders[0], withoutRemap, errdefs.ErrNotImplemented, err)
}

// tryIDMap maps the ids of a copy of the mount of path, which nobody sees. With
// AT_RECURSIVE, those of all that is mounted below too.
func tryIDMap(ns *os.File, path string, flags uint) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(tree)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|flags, attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}
