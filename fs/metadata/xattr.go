package metadata

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// xattrSpaces are the name spaces that the format numbers and the kernel's EROFS answers for. Those that do not end
// in a dot are whole names.
var xattrSpaces = [...]struct {
	index  uint8
	prefix string
}{
	{1, "user."},
	{2, "system.posix_acl_access"},
	{3, "system.posix_acl_default"},
	{4, "trusted."},
	{6, "security."},
}

// HoldsXattr reports whether an image can hold an xattr of this name: one of user., trusted. or security., or a
// POSIX ACL. Whoever makes a tree leaves out others, such as com.apple.*, as they cannot be set on Linux either;
// Write refuses them.
func HoldsXattr(name string) bool {
	_, _, ok := splitXattr(name)
	return ok
}

// splitXattr gives the number of a name's space and the rest of the name.
func splitXattr(name string) (index uint8, suffix string, ok bool) {
	for _, s := range xattrSpaces {
		rest, found := strings.CutPrefix(name, s.prefix)
		if found && (rest != "") == strings.HasSuffix(s.prefix, ".") {
			return s.index, rest, len(name) <= maxName && !strings.Contains(rest, "\x00")
		}
	}
	return 0, "", false
}

// joinXattr is the inverse of splitXattr.
func joinXattr(index uint8, suffix []byte) (name string, ok bool) {
	for _, s := range xattrSpaces {
		if s.index == index {
			return s.prefix + string(suffix), true
		}
	}
	return "", false
}

// xattrArea is the bytes that xattrs take behind their inode.
func xattrArea(xattrs map[string][]byte) (int, error) {
	if len(xattrs) == 0 {
		return 0, nil
	}
	area := xattrHeaderLen
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		_, suffix, ok := splitXattr(name)
		if !ok {
			return 0, fmt.Errorf("xattr %q: EROFS cannot hold this name", name)
		}
		if n := len(xattrs[name]); n > maxXattrValue {
			return 0, fmt.Errorf("xattr %q: value of %d bytes, at most %d fit", name, n, maxXattrValue)
		}
		area += xattrLen(suffix, xattrs[name])
	}
	if area > maxXattrArea {
		return 0, fmt.Errorf("xattrs take %d bytes, at most %d fit", area, maxXattrArea)
	}
	return area, nil
}

func xattrLen(suffix string, value []byte) int {
	return roundUp(xattrEntryLen+len(suffix)+len(value), 4)
}

// appendXattrs appends the area of xattrs that xattrArea has accepted.
func appendXattrs(b []byte, xattrs map[string][]byte) []byte {
	b = append(b, make([]byte, xattrHeaderLen)...)
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		index, suffix, _ := splitXattr(name)
		value := xattrs[name]
		b = append(b, uint8(len(suffix)), index)
		b = le.AppendUint16(b, uint16(len(value)))
		b = append(b, suffix...)
		b = append(b, value...)
		b = append(b, make([]byte, roundUp(len(b), 4)-len(b))...)
	}
	return b
}

// Getxattr returns a copy of the value of nid's xattr name, ErrNoXattr if there is none.
func (im *Image) Getxattr(nid uint64, name string) ([]byte, error) {
	index, want, ok := splitXattr(name)
	if !ok {
		return nil, ErrNoXattr
	}
	var value []byte
	err := im.xattrs(nid, func(i uint8, suffix, v []byte) bool {
		if i == index && string(suffix) == want {
			value = append(make([]byte, 0, len(v)), v...)
		}
		return value == nil
	})
	if err == nil && value == nil {
		err = ErrNoXattr
	}
	return value, err
}

// Listxattr returns the names of nid's xattrs, in the order in which they lie in the image.
func (im *Image) Listxattr(nid uint64) ([]string, error) {
	var names []string
	bad := false
	err := im.xattrs(nid, func(i uint8, suffix, _ []byte) bool {
		name, ok := joinXattr(i, suffix)
		bad = bad || !ok
		names = append(names, name)
		return ok
	})
	if bad {
		return nil, corrupt("inode %d: xattr of an unknown name space", nid)
	}
	return names, err
}

// xattrs calls f with each xattr of nid while f returns true. What it passes lies in the mapping.
func (im *Image) xattrs(nid uint64, f func(index uint8, suffix, value []byte) bool) error {
	in, err := im.inode(nid)
	if err != nil || in.xattrLen == 0 {
		return err
	}
	area := im.data[in.pos+inodeLen:][:in.xattrLen]
	if in.xattrLen <= xattrHeaderLen || !bytes.Equal(area[:xattrHeaderLen], make([]byte, xattrHeaderLen)) {
		return corrupt("inode %d: xattr header", nid)
	}
	for area = area[xattrHeaderLen:]; len(area) > 0; {
		nameEnd := xattrEntryLen + int(area[0])
		valueEnd := nameEnd + int(le.Uint16(area[2:]))
		if roundUp(valueEnd, 4) > len(area) {
			return corrupt("inode %d: xattr reaches over the end", nid)
		}
		if !f(area[1], area[xattrEntryLen:nameEnd], area[nameEnd:valueEnd]) {
			return nil
		}
		area = area[roundUp(valueEnd, 4):]
	}
	return nil
}
