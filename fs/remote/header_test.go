package remote

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseContentRange(t *testing.T) {
	for s, want := range map[string]contentRange{
		"bytes 0-0/1":                     {0, 0, 1},
		"bytes 5-9/10":                    {5, 9, 10},
		"Bytes 5-9/10":                    {5, 9, 10},
		"bytes 5-9/*":                     {5, 9, -1},
		"bytes */10":                      {-1, -1, 10},
		"bytes */0":                       {-1, -1, 0},
		"bytes 0-9223372036854775805/*":   {0, math.MaxInt64 - 2, -1},
		"bytes 007-0009/00010":            {7, 9, 10},
		"bytes 5-9/9223372036854775806  ": {},
	} {
		got, err := parseContentRange(s)
		if (want == contentRange{}) {
			if err == nil {
				t.Errorf("%q: got %v", s, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "bytes", "bytes ", "bytes /", "bytes -/-", "bytes 5-9", "bytes 5-/10", "bytes -9/10", "bytes 9-5/10", "bytes 5-10/10",
		"bytes */*", "bytes=5-9/10", "items 5-9/10", "bytes 5-9/-10", "bytes +5-9/10", "bytes 5--9/10", "bytes 0-9223372036854775807/*",
		"bytes 0-99999999999999999999/*", "bytes 0x1-0x2/9", "bytes 5-9/10/11",
	} {
		if got, err := parseContentRange(s); err == nil {
			t.Errorf("%q: got %v", s, got)
		}
	}
}

// What parses is a range that could be, and prints as what parses to the same.
func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes 5-9/*", "bytes */10", "bytes 5-4/10", "bytes 0-9223372036854775807/*", "b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseContentRange(s)
		if err != nil {
			return
		}
		if r.unsatisfied() != (r.last < 0) || r.unsatisfied() && r.total < 0 {
			t.Errorf("%q: %v", s, r)
		}
		if !r.unsatisfied() && (r.last < r.first || r.last+1 < 0 || r.total >= 0 && r.last >= r.total) {
			t.Errorf("%q: %v", s, r)
		}
		if again, err := parseContentRange(r.String()); err != nil || again != r {
			t.Errorf("%q: %v prints as %q, which is %v, %v", s, r, r.String(), again, err)
		}
	})
}

// No answer makes us wait less than nothing, or for a date that has passed.
func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, s := range []string{"", "0", "120", "-1", "9223372036854775807", "Fri, 02 Jan 2026 03:04:15 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "1e9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := parseRetryAfter(s, now)
		if d < 0 {
			t.Errorf("%q: %v", s, d)
		}
		if d > 0 && strings.Trim(s, "0123456789") == "" && d%time.Second != 0 {
			t.Errorf("%q: %v", s, d)
		}
	})
}
