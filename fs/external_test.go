package fs

import "testing"

func TestExternalRef(t *testing.T) {
	for ref, want := range map[string]string{
		"example.com/app:1":                 "example.com/app:1-esgztoc",
		"localhost:5000/a/b:x@sha256:12":    "localhost:5000/a/b:x-esgztoc",
		"example.com/app@sha256:1234567890": "",
		"example.com/app":                   "",
	} {
		got, err := externalRef(ref)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, want %q: %v", ref, got, want, err)
		}
	}
}
