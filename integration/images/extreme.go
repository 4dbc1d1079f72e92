package images

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// CrowdDir, in the image that Extreme makes, has Crowd empty files, entry-000000 and so on, each changed in the second of its number.
const (
	CrowdDir = "/extreme/crowd"
	Crowd    = 100_000
)

// ExtremeXattr is the name of the xattrs in the image that Extreme makes.
const ExtremeXattr = "user.extreme"

// Extreme makes an image of more than ext4 likes or can hold: a folder of Crowd files, and ExtremeXattrs. Its entrypoint is /check.
func Extreme(ctx context.Context) (*Image, error) {
	program, err := checker(ctx)
	if err != nil {
		return nil, err
	}
	return checked(recipe{
		name: "extreme", key: keyOf(extremeSources, string(program)), layers: []layer{asLayer(nil, extremeFiles)},
	}, program).make(ctx)
}

// ExtremeXattrs are the values of ExtremeXattr, by path. The kernel's limit is 64 KiB (XATTR_SIZE_MAX); EROFS counts in 16 bits, so that
// a byte less is the most that it holds.
func ExtremeXattrs() map[string][]byte {
	return map[string][]byte{
		extremeFolder:            noise(21, 1<<16-1),
		"/extreme/xattrs/file":   noise(22, 1<<16-1),
		"/extreme/xattrs/fewer":  noise(23, 60_000),
		"/extreme/xattrs/little": noise(24, 4_000),
	}
}

const extremeFolder = "/extreme/xattrs/folder"

func extremeFiles(t *tree) {
	for i := range Crowd {
		t.text(fmt.Sprintf("%s/entry-%06d", CrowdDir[1:], i), "", at(time.Unix(int64(i), 0)))
	}
	xattrs := ExtremeXattrs()
	for _, path := range slices.Sorted(maps.Keys(xattrs)) {
		value := xattr(ExtremeXattr, string(xattrs[path]))
		if path == extremeFolder {
			t.dir(path[1:], value)
		} else {
			t.text(path[1:], "text", value)
		}
	}
}
