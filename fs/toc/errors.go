package toc

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// ErrFormat is the cause when a blob ends in no footer that this package knows: it is not lazy, or cut short.
var ErrFormat = errors.New("blob ends in neither an eStargz nor a zstd:chunked footer")

// DigestError says that a TOC is not the one that the manifest names.
type DigestError struct {
	Got, Want digest.Digest
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("TOC has digest %s, want %s", e.Got, e.Want)
}

// EntryError says why a TOC or a tar is refused, and by which of its entries.
type EntryError struct {
	Name   string // as it stands there: hostile bytes of any length
	Reason string
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("entry %s: %s", quote(e.Name), e.Reason)
}

// refuse makes an EntryError of err, unless it already is one.
func refuse(name string, err error) error {
	if entry := (*EntryError)(nil); errors.As(err, &entry) {
		return err
	}
	return &EntryError{Name: name, Reason: err.Error()}
}

// quote makes hostile bytes fit for a line of a log.
func quote(s string) string {
	const most, head, tail = 100, 64, 32
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q...%q (%d bytes)", s[:head], s[len(s)-tail:], len(s))
}
