package pack

import (
	"archive/tar"
	"bytes"
	"path"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// order is the entries in the order of the blob: those that come first, the landmark, all others. Of those that should come first, skipped are
// the ones that cannot.
func (t *Tar) order(first []string) (sorted []*entry, skipped []string, err error) {
	m := mover{named: t.named, moved: make(map[string]bool)}
	for _, name := range first {
		if !m.move(name) {
			skipped = append(skipped, name)
		}
	}
	mark, err := landmark(len(first) > 0)
	if err != nil {
		return nil, nil, err
	}
	sorted = append(m.sorted, mark)
	for _, e := range t.entries {
		if !m.moved[e.name] {
			sorted = append(sorted, e)
		}
	}
	return sorted, skipped, nil
}

// mover puts entries first.
type mover struct {
	named  map[string]*entry
	sorted []*entry
	moved  map[string]bool // by name; false for what cannot be moved
}

// move moves an entry, before it the folders that it is in and what it is a hard link to. Without entries for all of them it stays where it
// is: unpacked in that order, it would have no place.
func (m *mover) move(name string) bool {
	if moved, known := m.moved[name]; known {
		return moved
	}
	e := m.named[name]
	m.moved[name] = e != nil || name == "" // now already: links may go in circles
	if e == nil {
		return m.moved[name]
	}
	if name != "" {
		m.moved[name] = m.move(parent(name)) && (e.toc.Type != "hardlink" || m.move(cleanName(e.toc.LinkName)))
	}
	if m.moved[name] {
		m.sorted = append(m.sorted, e)
	}
	return m.moved[name]
}

func parent(name string) string { return cleanName(path.Dir(name)) }

// landmark is the entry that ends what comes first, or says that nothing does. eStargz says what is in it: 0xf.
func landmark(prefetch bool) (*entry, error) {
	name := estargz.NoPrefetchLandmark
	if prefetch {
		name = estargz.PrefetchLandmark
	}
	var b bytes.Buffer
	out := &counter{w: &b}
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 1}
	toc, err := tocEntry(h)
	if err != nil {
		return nil, err
	}
	e := &entry{name: name, toc: toc}
	if err := e.copy(out, tar.NewWriter(out), h, bytes.NewReader([]byte{0xf})); err != nil {
		return nil, err
	}
	e.tar = bytes.NewReader(b.Bytes())
	return e, nil
}
