package fs

import (
	"errors"
	"fmt"
	"slices"
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
	unmount  func(way) error
	standing func(way) bool  // whether it is mounted still: somebody else may have unmounted it
	remount  func(way) error // at the same path
	logger   *log.Entry

	mu     sync.Mutex
	list   []way // empty once closed
	closed bool
}

// add takes a better way.
func (w *ways) add(kind, path string) {
	one := way{kind: kind, path: path, holders: make(map[string]struct{})}
	w.mu.Lock()
	closed := w.closed
	if !closed {
		w.list = append(w.list, one)
	}
	w.mu.Unlock()
	if closed {
		if err := w.unmount(one); err != nil {
			w.logger.WithError(err).Warn("a mount that comes too late stays")
		}
		return
	}
	w.retire()
}

// hold gives the best way to holder. An earlier one that it has may be about to be mounted, and stays until drop. An empty folder is
// never given: overlayfs would take it. Errors: errNotMounted if there is no way any more.
func (w *ways) hold(holder string) (path string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) == 0 {
		return "", errNotMounted
	}
	var errs []error
	for _, one := range slices.Backward(w.list) {
		if !w.standing(one) {
			if err := w.remount(one); err != nil {
				errs = append(errs, fmt.Errorf("somebody has unmounted %s: %w", one.path, err))
				continue
			}
			w.logger.WithField("path", one.path).Warn("somebody has unmounted the layer; it is mounted again")
		}
		one.holders[holder] = struct{}{}
		return one.path, nil
	}
	return "", errors.Join(errs...)
}

// drop ends what hold has promised, and reports whether it had.
func (w *ways) drop(holder string) (had bool) {
	w.mu.Lock()
	for _, one := range w.list {
		if _, ok := one.holders[holder]; ok {
			delete(one.holders, holder)
			had = true
		}
	}
	w.mu.Unlock()
	w.retire()
	return had
}

// held says whether somebody has been given one of the paths.
func (w *ways) held() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.list, func(one way) bool { return len(one.holders) > 0 })
}

// abandon gives no more paths, if nobody has one: then what it returns unmounts all, when it is called.
func (w *ways) abandon() (unmount func() error, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.ContainsFunc(w.list, func(one way) bool { return len(one.holders) > 0 }) {
		return nil, false
	}
	list := w.list
	w.list, w.closed = nil, true
	return func() error { return w.unmountAll(list) }, true
}

// retire unmounts what is neither the best nor held. One that cannot be unmounted is tried again with the next.
func (w *ways) retire() {
	for _, old := range w.unneeded() {
		if err := w.unmount(old); err != nil {
			w.logger.WithError(err).Warn("a mount that nobody needs any more stays for now")
			w.mu.Lock()
			if len(w.list) > 0 {
				w.list = slices.Insert(w.list, 0, old)
			}
			w.mu.Unlock()
		}
	}
}

// unneeded takes what is neither the best nor held from the list.
func (w *ways) unneeded() (gone []way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kept []way
	for i, one := range w.list {
		if i < len(w.list)-1 && len(one.holders) == 0 {
			gone = append(gone, one)
		} else {
			kept = append(kept, one)
		}
	}
	w.list = kept
	return gone
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
	list := w.list
	w.list, w.closed = nil, true
	w.mu.Unlock()
	return w.unmountAll(list)
}

func (w *ways) unmountAll(list []way) error {
	var errs []error
	for _, one := range list {
		errs = append(errs, w.unmount(one))
	}
	return errors.Join(errs...)
}
