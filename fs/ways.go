package fs

import (
	"errors"
	"sync"

	"github.com/containerd/log"
)

// Kinds of mounts, as status names them.
const (
	erofsNative = "erofs"
	erofsOnFUSE = "erofs-fuse"
	fuseTree    = "fuse"
)

// way is one folder that shows a layer.
type way struct {
	kind    string
	path    string
	holders map[string]struct{} // who has been given the path and may yet use it
}

// ways are the folders of one layer, the best one last. A folder that is not the best goes when nobody holds it: what
// was mounted on it meanwhile, an overlay or a bind mount, has a reference of its own.
type ways struct {
	unmount func(way) error
	logger  *log.Entry

	mu   sync.Mutex
	list []way // empty once closed
}

// add takes a better way.
func (w *ways) add(kind, path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, way{kind: kind, path: path, holders: make(map[string]struct{})})
	w.retire()
}

// hold gives the best way to holder, instead of the one it has. "" means that there is none any more.
func (w *ways) hold(holder string) (path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) == 0 {
		return ""
	}
	w.release(holder)
	best := w.list[len(w.list)-1]
	best.holders[holder] = struct{}{}
	w.retire()
	return best.path
}

// drop is the opposite of hold.
func (w *ways) drop(holder string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.release(holder)
	w.retire()
}

func (w *ways) release(holder string) {
	for _, old := range w.list {
		delete(old.holders, holder)
	}
}

// retire unmounts what is neither the best nor held.
func (w *ways) retire() {
	last := len(w.list) - 1
	var kept []way
	for i, old := range w.list {
		if i == last || len(old.holders) > 0 {
			kept = append(kept, old)
		} else if err := w.unmount(old); err != nil {
			w.logger.WithError(err).Warn("a mount that nobody needs any more stays")
		}
	}
	w.list = kept
}

// kinds are those of all ways, the best last.
func (w *ways) kinds() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	kinds := make([]string, 0, len(w.list))
	for _, one := range w.list {
		kinds = append(kinds, one.kind)
	}
	return kinds
}

// close unmounts all.
func (w *ways) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, old := range w.list {
		errs = append(errs, w.unmount(old))
	}
	w.list = nil
	return errors.Join(errs...)
}
