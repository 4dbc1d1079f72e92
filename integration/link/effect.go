package link

import (
	"net/http"
	"strconv"
	"time"
)

// Effect is what becomes of a request that a rule hits: one of the types below.
type Effect interface {
	// arm prepares x, or answers it and returns true.
	arm(x *exchange) bool
}

// Status answers with a code instead of asking the registry.
type Status struct {
	Code       int
	RetryAfter time.Duration // whole seconds for the Retry-After header; 0 sends none
}

// WholeBody ignores the Range header: 200 with the whole blob.
type WholeBody struct{}

// Truncate closes the connection after so many body bytes, less than Content-Length promised.
type Truncate struct{ After int64 }

// Corrupt inverts the bytes of a blob at offsets From up to To (0: its end), however they are asked for.
type Corrupt struct{ From, To int64 }

// Flip inverts one byte in the middle of an answer's body, whatever was asked for.
type Flip struct{}

// Stall sends After body bytes and then nothing until the injection is released or the client leaves. Negative After
// holds the header back as well.
type Stall struct{ After int64 }

// Reset sends After body bytes and then resets the connection. Negative After sends nothing at all.
type Reset struct{ After int64 }

func (s Status) arm(x *exchange) bool {
	if s.RetryAfter > 0 {
		x.Header().Set("Retry-After", strconv.Itoa(int(s.RetryAfter.Round(time.Second)/time.Second)))
	}
	http.Error(x, http.StatusText(s.Code), s.Code)
	return true
}

func (WholeBody) arm(x *exchange) bool {
	x.wholeBody = true
	return false
}

func (t Truncate) arm(x *exchange) bool {
	x.cut = t.After
	x.atCut = func() bool { x.abort(); return false }
	return false
}

func (c Corrupt) arm(x *exchange) bool {
	x.corrupt = func(p []byte, off int64) {
		for i := range p {
			if at := off + int64(i); at >= c.From && (c.To == 0 || at < c.To) {
				p[i] ^= 0xff
			}
		}
	}
	return false
}

func (Flip) arm(x *exchange) bool {
	x.corrupt = func(p []byte, off int64) {
		// What has no length, which blobs have, keeps its bytes.
		length, _ := strconv.ParseInt(x.Header().Get("Content-Length"), 10, 64)
		if i := x.start + length/2 - off; i >= 0 && i < int64(len(p)) {
			p[i] ^= 0xff
		}
	}
	return false
}

func (s Stall) arm(x *exchange) bool {
	hold := func() bool {
		if s.After > 0 {
			_ = x.flush() // a client that has left is noticed below
		}
		select {
		case <-x.injection.released:
			return true
		case <-x.ctx.Done():
			return false
		}
	}
	if s.After < 0 {
		return !hold()
	}
	x.cut, x.atCut = s.After, hold
	return false
}

func (r Reset) arm(x *exchange) bool {
	if r.After < 0 {
		x.reset()
	}
	x.cut = r.After
	x.atCut = func() bool { x.reset(); return false }
	return false
}
