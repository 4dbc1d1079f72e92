package pack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// Tar is what is to be known of the tar of a layer that Normalise has written: where its entries lie, and what a TOC says of them. Names
// are clean and without leading slash. It may be packed once.
type Tar struct {
	entries []*entry // in order; of each name the last
	named   map[string]*entry
	linked  map[string]bool // targets of hard links
}

// entry is one of a tar: a header, and with regular files a payload and its padding.
type entry struct {
	name                string // clean
	toc                 estargz.TOCEntry
	tar                 io.ReaderAt // nil: the layer's
	begin, payload, end int64       // where header and payload begin in it, and the next entry
	replaced            bool        // by a later one
}

// Normalise rewrites a tar so that it can be packed by copying, and nothing is lost by it: sparse files become ordinary ones, global headers,
// which containerd ignores as well, go, and so do the traces of an earlier conversion. r is read to its end.
func Normalise(w io.Writer, r io.Reader) (*Tar, error) {
	out := &counter{w: w}
	tr, tw := tar.NewReader(r), tar.NewWriter(out)
	t := &Tar{named: make(map[string]*entry), linked: make(map[string]bool)}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read tar: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader || ofFormat[cleanName(h.Name)] {
			continue
		}
		dense(h)
		e, err := t.add(h)
		if err != nil {
			return nil, fmt.Errorf("tar entry %q: %w", h.Name, err)
		}
		if err := e.copy(out, tw, h, tr); err != nil {
			return nil, err
		}
	}
	t.entries = slices.DeleteFunc(t.entries, func(e *entry) bool { return e.replaced })
	_, err := io.Copy(io.Discard, r)
	return t, err
}

// ofFormat are the files that the format itself adds to a tar: those of an earlier conversion would not be what they say.
var ofFormat = map[string]bool{estargz.TOCTarName: true, estargz.PrefetchLandmark: true, estargz.NoPrefetchLandmark: true}

// dense makes a sparse file's header an ordinary one's; the reader fills its holes.
func dense(h *tar.Header) {
	if h.Typeflag == tar.TypeGNUSparse {
		h.Typeflag = tar.TypeReg
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			delete(h.PAXRecords, key)
		}
	}
}

// add refuses what would come out as another tree when the last entry of a name is all that is kept of it.
func (t *Tar) add(h *tar.Header) (*entry, error) {
	toc, err := tocEntry(h)
	if err != nil {
		return nil, err
	}
	e := &entry{name: cleanName(h.Name), toc: toc}
	if old := t.named[e.name]; old != nil {
		if t.linked[e.name] {
			return nil, errors.New("replaces a file that hard links were made to")
		}
		old.replaced = true
	}
	if h.Typeflag == tar.TypeLink {
		t.linked[cleanName(h.Linkname)] = true
	}
	t.named[e.name] = e
	t.entries = append(t.entries, e)
	return e, nil
}

// copy writes the entry, whose payload is r, and notes where it is.
func (e *entry) copy(out *counter, tw *tar.Writer, h *tar.Header, r io.Reader) error {
	e.begin = out.n
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write tar entry %q: %w", h.Name, err)
	}
	e.payload = out.n
	_, err := io.Copy(tw, r)
	if err == nil {
		err = tw.Flush() // the padding
	}
	if err != nil {
		return fmt.Errorf("copy tar entry %q: %w", h.Name, err)
	}
	e.end = out.n
	return nil
}

// typeNames are the types that a TOC has.
var typeNames = map[byte]string{
	tar.TypeReg: "reg", tar.TypeDir: "dir", tar.TypeLink: "hardlink", tar.TypeSymlink: "symlink",
	tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo",
}

// tocEntry is what a TOC says of an entry wherever it lies.
func tocEntry(h *tar.Header) (estargz.TOCEntry, error) {
	e := estargz.TOCEntry{
		Name: h.Name, Type: typeNames[h.Typeflag], Mode: h.Mode, UID: h.Uid, GID: h.Gid, Uname: h.Uname, Gname: h.Gname,
		ModTime3339: formatTime(h.ModTime), Xattrs: xattrs(h),
	}
	switch h.Typeflag {
	case tar.TypeLink, tar.TypeSymlink:
		e.LinkName = h.Linkname
	case tar.TypeReg:
		e.Size = h.Size
	case tar.TypeChar, tar.TypeBlock:
		e.DevMajor, e.DevMinor = int(h.Devmajor), int(h.Devminor)
	}
	if e.Type == "" {
		return e, fmt.Errorf("of type %q, which a TOC does not have", h.Typeflag)
	}
	return e, nil
}

// formatTime is a time as TOCs have it. estargz rounds to seconds, which the tar entries are not; RFC 3339 has fractions, and readers take them.
func formatTime(t time.Time) string {
	if t.IsZero() || t.Equal(time.Unix(0, 0)) {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func xattrs(h *tar.Header) map[string][]byte {
	var all map[string][]byte
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if all == nil {
				all = make(map[string][]byte)
			}
			all[name] = []byte(value)
		}
	}
	return all
}

// Names are those of the entries, in order.
func (t *Tar) Names() []string {
	names := make([]string, len(t.entries))
	for i, e := range t.entries {
		names[i] = e.name
	}
	return names
}

// Content is bytes of all files.
func (t *Tar) Content() (sum int64) {
	for _, e := range t.entries {
		sum += e.toc.Size
	}
	return sum
}

// File is the regular file that a name stands for, which is another's where it is a hard link: the name of its entry, and its bytes.
func (t *Tar) File(name string) (file string, size int64, ok bool) {
	for range len(t.entries) { // links may go in circles
		switch e := t.named[name]; {
		case e != nil && e.toc.Type == "reg":
			return name, e.toc.Size, true
		case e == nil || e.toc.Type != "hardlink":
			return "", 0, false
		default:
			name = cleanName(e.toc.LinkName)
		}
	}
	return "", 0, false
}

func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// counter counts the bytes that pass.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
