package endpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseSpec(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Spec
		err  string
	}{
		{"alpine", Spec{KindRegistry, "", "docker.io/library/alpine:latest"}, ""},
		{"localhost:5000/a/b:c", Spec{KindRegistry, "", "localhost:5000/a/b:c"}, ""},
		{"oci:dir", Spec{KindLayout, "dir", ""}, ""},
		{"oci:/a/b:v1", Spec{KindLayout, "/a/b", "v1"}, ""},
		{"oci:a:docker.io/library/x:1", Spec{KindLayout, "a", "docker.io/library/x:1"}, ""},
		{"oci-archive:x.tar:t", Spec{KindArchive, "x.tar", "t"}, ""},
		{"containerd:docker.io/library/a:1", Spec{KindContainerd, "", "docker.io/library/a:1"}, ""},
		{"oci:", Spec{}, "no path"},
		{"oci:a:", Spec{}, "empty tag"},
		{"containerd:", Spec{}, "no reference"},
		{"Up/Case", Spec{}, "lowercase"},
		{"", Spec{}, `""`},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseSpec(tt.in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v", got, err)
			}
			if again, err := ParseSpec(got.String()); err != nil || again != got {
				t.Errorf("%s parses as %+v, %v", got, again, err)
			}
		})
	}
}

func TestSame(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"alpine", "docker.io/library/alpine:latest", true},
		{"alpine:1", "alpine:2", false},
		{"alpine", "containerd:docker.io/library/alpine:latest", false},
		{"oci:" + dir, "oci:" + dir + "/link/:latest", true},
		{"oci:" + dir + ":a", "oci:" + dir + ":b", false},
		{"oci-archive:" + dir + "/x:a", "oci-archive:" + filepath.Join(dir, "y", "..", "x") + ":b", true},
	} {
		a, errA := ParseSpec(tt.a)
		b, errB := ParseSpec(tt.b)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if got := Same(a, b); got != tt.want {
			t.Errorf("Same(%s, %s) = %t", tt.a, tt.b, got)
		}
	}
}
