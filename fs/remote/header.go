package remote

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A contentRange is a Content-Range header of bytes (RFC 9110, section 14.4).
type contentRange struct {
	first, last int64 // inclusive; first is -1 in the answer to a range that cannot be satisfied
	total       int64 // -1 if not told
}

var errContentRange = errors.New("malformed Content-Range")

func (r contentRange) unsatisfied() bool { return r.first < 0 }

func (r contentRange) String() string {
	span, total := "*", "*"
	if !r.unsatisfied() {
		span = fmt.Sprintf("%d-%d", r.first, r.last)
	}
	if r.total >= 0 {
		total = strconv.FormatInt(r.total, 10)
	}
	return "bytes " + span + "/" + total
}

func parseContentRange(s string) (contentRange, error) {
	r := contentRange{first: -1, last: -1, total: -1}
	unit, rest, _ := strings.Cut(s, " ")
	span, total, ok := strings.Cut(rest, "/")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return r, errContentRange
	}
	if total != "*" {
		if r.total, ok = parseOffset(total); !ok {
			return r, errContentRange
		}
	}
	if span == "*" {
		if r.total < 0 {
			return r, errContentRange
		}
		return r, nil
	}
	first, last, _ := strings.Cut(span, "-")
	var ok1, ok2 bool
	r.first, ok1 = parseOffset(first)
	r.last, ok2 = parseOffset(last)
	if !ok1 || !ok2 || r.last < r.first || r.total >= 0 && r.last >= r.total {
		return r, errContentRange
	}
	return r, nil
}

// parseOffset parses digits only: ParseInt takes signs. The largest int64 is refused so that one past it is one, too.
func parseOffset(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil && n < math.MaxInt64
}

// parseRetryAfter returns what a Retry-After header asks for: seconds or a date (RFC 9110, section 10.2.3). What it
// cannot make sense of, and what lies in the past, is 0.
func parseRetryAfter(s string, now time.Time) time.Duration {
	if seconds, ok := parseOffset(s); ok {
		return time.Duration(min(seconds, int64(math.MaxInt64/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
