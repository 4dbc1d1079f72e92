package fs

import (
	"context"
	"time"

	"github.com/containerd/log"
)

// vain is a round that has made no room: everything is in use. The zero value is none.
type vain struct {
	goals goals
	drops uint64 // FS.drops, before it
	at    time.Time
}

// still says whether another round would be in vain as well: for some seconds, unless somebody lets go of a layer, or contents may be taken away
// that could not before. With a store at its limit each chunk that is stored asks for one.
func (v vain) still(g goals, drops uint64) bool {
	return drops == v.drops && time.Since(v.at) < reliefPause && (g.shed == enough || v.goals.shed != enough)
}

// tellPinned says once that a store at its limit has nothing to give up, until it has room again.
func (f *FS) tellPinned(ctx context.Context, g goals) {
	st := f.opts.Store
	if st.Used() <= g.shed || st.Trouble() != nil || st.Used() < st.Quota().High || f.pinned.Swap(true) {
		return
	}
	_, bytes := f.Pinned()
	log.G(ctx).WithFields(log.Fields{"used": st.Used(), "pinned": bytes, "limit": st.Quota().Limit}).
		Warn("the layer store has come to its limit, and containers use all of it: contents that are read are not kept, and layers without a TOC are refused")
	_, ok := f.tasks.start(ctx, func(ctx context.Context) {
		if st.AwaitRoom(ctx) == nil {
			f.pinned.Store(false)
			log.G(ctx).Info("the layer store has room again")
		}
	})
	if !ok {
		f.pinned.Store(false)
	}
}

// Pinned says whether the store is at its limit and has nothing to give up, and how many bytes of it cannot be given up now, whether it is or not:
// what containers use of plain layers, of those that are mounted natively, and of others what is not contents.
func (f *FS) Pinned() (all bool, bytes int64) {
	for _, m := range f.all() {
		if m.ways.held() {
			bytes += m.shown.layer.Store().Fixed()
		}
	}
	return f.pinned.Load(), bytes
}
