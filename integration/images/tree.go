package images

import (
	"archive/tar"
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"time"
)

// tree writes one layer entry by entry. The first error sticks. Folders that were not added yet are added before what lies in them,
// with the attributes that dirs gives them, so that every layer repeats them alike.
type tree struct {
	w    *tar.Writer
	dirs map[string]tar.Header
	done map[string]bool
	err  error
}

// asLayer turns a function that fills a tree into a layer.
func asLayer(dirs map[string]tar.Header, fill func(t *tree)) entries {
	return func(_ context.Context, w *tar.Writer) error {
		t := &tree{w: w, dirs: dirs, done: map[string]bool{".": true}}
		fill(t)
		return t.err
	}
}

// option changes a header before it is written.
type option func(h *tar.Header)

func mode(m int64) option { return func(h *tar.Header) { h.Mode = m } }

func owner(uid, gid int) option { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }

func at(t time.Time) option { return func(h *tar.Header) { h.ModTime = t } }

func xattr(name, value string) option {
	return func(h *tar.Header) {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords["SCHILY.xattr."+name] = value
	}
}

// add writes the folders that lead to h, h itself, and content.
func (t *tree) add(h tar.Header, content []byte, options []option) {
	t.dir(path.Dir(path.Clean(h.Name)))
	h.Format = tar.FormatPAX // sub-second times, large numbers, xattrs
	if h.ModTime.IsZero() {
		h.ModTime = epoch
	}
	for _, o := range options {
		o(&h)
	}
	h.Size = int64(len(content))
	if t.err != nil {
		return
	}
	if t.err = t.w.WriteHeader(&h); t.err != nil {
		t.err = fmt.Errorf("%q: %w", h.Name, t.err)
		return
	}
	_, t.err = t.w.Write(content)
}

func (t *tree) dir(name string, options ...option) {
	if t.done[name] {
		return
	}
	t.done[name] = true
	h, ok := t.dirs[name]
	if !ok {
		h = tar.Header{Mode: 0o755}
	}
	h.Typeflag, h.Name = tar.TypeDir, name
	t.add(slashed(h), nil, options)
}

// slashed gives a folder's header the name that tar programs write.
func slashed(h tar.Header) tar.Header {
	h.Name += "/"
	return h
}

func (t *tree) file(name string, content []byte, options ...option) {
	t.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, content, options)
}

func (t *tree) text(name, content string, options ...option) {
	t.file(name, []byte(content), options...)
}

func (t *tree) hardlink(name, to string) {
	t.add(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}, nil, nil)
}

func (t *tree) symlink(name, target string, options ...option) {
	t.add(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil, options)
}

func (t *tree) device(kind byte, name string, major, minor int64, options ...option) {
	h := tar.Header{Typeflag: kind, Name: name, Mode: 0o600, Devmajor: major, Devminor: minor}
	t.add(h, nil, options)
}

// whiteout removes name as the layers below have it.
func (t *tree) whiteout(name string) {
	t.text(path.Join(path.Dir(name), ".wh."+path.Base(name)), "")
}

// opaque hides everything that the layers below have in the folder dir.
func (t *tree) opaque(dir string) { t.text(path.Join(dir, ".wh..wh..opq"), "") }

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewPCG(seed, 1)
	for i := 0; i+8 <= n; i += 8 {
		v := r.Uint64()
		for j := range 8 {
			p[i+j] = byte(v >> (8 * j))
		}
	}
	return p
}
