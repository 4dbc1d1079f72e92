package remote

import (
	"errors"
	"io"
	"net/http"
	"testing"
)

// TestErrorWraps: an Error wraps its cause, and where it has none it does not wrap nil, at which others panic.
func TestErrorWraps(t *testing.T) {
	if !errors.Is(&Error{Err: io.ErrUnexpectedEOF}, io.ErrUnexpectedEOF) {
		t.Error("the cause is not wrapped")
	}
	if wrapped := (&Error{Status: http.StatusBadGateway}).Unwrap(); len(wrapped) > 0 {
		t.Errorf("without a cause it wraps %v", wrapped)
	}
}
