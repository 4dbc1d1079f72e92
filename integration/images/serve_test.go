package images

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// serve returns the host:port at which h answers until the test ends.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}
