package fs

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestClockSetBack: what was used before the clock was set back counts from then on, and not from when the clock is there again.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u use
		later := time.Now().Add(24 * time.Hour).UnixNano()
		u.at.Store(later)
		u.pulled.Store(later)
		if u.since() != 0 || !u.awaited(time.Minute) {
			t.Errorf("used %s ago", u.since())
		}
		time.Sleep(time.Minute)
		if got := u.since(); got != time.Minute || u.awaited(time.Minute) {
			t.Errorf("used %s ago, a minute after; awaited: %v", got, u.awaited(time.Minute))
		}
		u.pulled.Store(0)
		if u.awaited(time.Hour) {
			t.Error("awaited without a pull")
		}
	})
}
