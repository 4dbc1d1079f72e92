package snapshotter

import "testing"

// TestVisitors: two calls for one snapshot hold the layers below it by two names.
func TestVisitors(t *testing.T) {
	var s Snapshotter
	if one, other := s.visitor("target"), s.visitor("target"); one == other {
		t.Errorf("both are %q", one)
	}
}
