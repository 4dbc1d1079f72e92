package toc

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/containerd/stargz-snapshotter/estargz"
)

const (
	longName = 100 // bytes of a name for which a header has room by itself

	// Names of owners are short, and few in a layer. Who has more of them, or longer ones, need not be guessed right.
	maxOwners    = 4096
	maxOwnerName = 255
)

// Style is one of the ways in which headers of a tar are written. A TOC does not say which; all that is converted was written by Go's
// archive/tar in the end, in the format that the tar had before.
type Style struct {
	format  tar.Format
	records bool // long names are PAX records, also where two fields of a USTAR header had room for them
}

// Styles are those that there are, the most usual one first: that of containerd, buildkit and docker, which is USTAR as far as that will do;
// GNU tar's own; and that of GNU tar and Python for PAX.
func Styles() []Style {
	return []Style{{format: tar.FormatPAX}, {format: tar.FormatGNU}, {format: tar.FormatPAX, records: true}}
}

// header is what the tar has for an entry, as far as the entry tells.
func (s Style) header(e *estargz.TOCEntry) (*tar.Header, error) {
	h := &tar.Header{
		Name: e.Name, Linkname: e.LinkName, Mode: e.Mode, Uid: e.UID, Gid: e.GID, Uname: e.Uname, Gname: e.Gname,
		Devmajor: int64(e.DevMajor), Devminor: int64(e.DevMinor), Format: s.format,
	}
	if err := s.setType(h, e); err != nil {
		return nil, err
	}
	if e.ModTime3339 != "" {
		var err error
		if h.ModTime, err = time.Parse(time.RFC3339, e.ModTime3339); err != nil {
			return nil, err
		}
	}
	if s.records {
		setRecord(h, "path", h.Name, len(h.Name) > longName)
		setRecord(h, "linkpath", h.Linkname, len(h.Linkname) > longName)
	}
	for name, value := range e.Xattrs {
		setRecord(h, xattrRecord+name, string(value), true)
	}
	if len(h.PAXRecords) > 0 {
		h.Format = tar.FormatPAX
	}
	return h, nil
}

func (s Style) setType(h *tar.Header, e *estargz.TOCEntry) error {
	for flag, name := range entryTypes {
		if name == e.Type {
			h.Typeflag = flag
		}
	}
	switch h.Typeflag {
	case 0:
		return fmt.Errorf("unknown type %s", quote(e.Type))
	case tar.TypeReg:
		h.Size = e.Size
	}
	for _, told := range []string{e.Name, e.LinkName, e.Uname, e.Gname} {
		if strings.ContainsRune(told, utf8.RuneError) {
			return errors.New("JSON does not tell this name") // see jsonString
		}
	}
	return nil
}

func setRecord(h *tar.Header, key, value string, is bool) {
	if !is {
		return
	}
	if h.PAXRecords == nil {
		h.PAXRecords = make(map[string]string)
	}
	h.PAXRecords[key] = value
}

// owners are names of users or groups, which a TOC says where they are others than before.
type owners map[int]string

// of is the name of who has a number, name being what the entry says.
func (o owners) of(id int, name string) string {
	if name == "" {
		return o[id]
	}
	if len(o) < maxOwners && len(name) <= maxOwnerName {
		o[id] = name
	}
	return name
}
