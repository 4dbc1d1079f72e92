package remote

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// An Error is what one host came to. When several hosts were asked, the error returned is errors.Join of one each.
// None of its fields, and no error below it, holds a token, a password or the query of a URL.
type Error struct {
	Op       string // what was wanted: "read", "size", "manifest"
	Ref      string // image reference
	Digest   digest.Digest
	Host     string // that was asked; "" if it did not come to that
	URL      string // that answered last, without its query; "" if it is the host's own for the blob
	Status   int    // HTTP status of the last answer; 0 if there was none or its status was not the problem
	Code     string // from the registry, as in the distribution specification ("MANIFEST_UNKNOWN"); at most 64 bytes
	Message  string // from the registry; at most 256 bytes
	Attempts int    // requests that this host was sent
	Err      error  // nil if Status says it all

	temporary  bool
	overloaded *site    // that asks to wait; nil if none does
	signed     *url.URL // where Err is errPaused and a redirect led there
	sized      bool     // the host has said that there is too little of the blob, and how much
	size       int64    // if sized
}

// Temporary reports whether the same host may answer better later.
func (e *Error) Temporary() bool { return e.temporary }

// Unwrap returns Err, and nothing where that is nil: containerd's conversion to gRPC panics at an error that wraps a nil one.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return nil
	}
	return []error{e.Err}
}

// Refused reports whether err says that every host which was asked has answered that it has no such thing, or none for us: 401, 403 or 404.
func Refused(err error) bool {
	if e, ok := err.(*Error); ok { //nolint:errorlint // what it wraps is its cause
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden || e.Status == http.StatusNotFound
	}
	switch e := err.(type) { //nolint:errorlint // it goes down by itself
	case interface{ Unwrap() []error }:
		errs := e.Unwrap()
		return len(errs) > 0 && !slices.ContainsFunc(errs, func(err error) bool { return !Refused(err) })
	case interface{ Unwrap() error }:
		return Refused(e.Unwrap())
	}
	return false
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s of %s", e.Op, e.Digest, e.Ref)
	if e.Host != "" {
		fmt.Fprintf(&b, ": host %s", e.Host)
	}
	if e.URL != "" {
		fmt.Fprintf(&b, ": %s", e.URL)
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, ": %d %s", e.Status, http.StatusText(e.Status))
	}
	if e.Code != "" {
		fmt.Fprintf(&b, ": %s", e.Code)
	}
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Attempts > 1 {
		fmt.Fprintf(&b, " (%d attempts)", e.Attempts)
	}
	return b.String()
}

var (
	errStalled   = errors.New("no byte for too long")
	errRedirects = fmt.Errorf("more than %d redirects", maxRedirects)
	errTooMany   = errors.New("too many answers with too little in them")
	errLocation  = errors.New("redirect without a usable Location")
)
