package images

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debianBase makes the image of the minbase variant alone, which is the lowest layer of every image that Debian makes.
func debianBase(ctx context.Context) (*Image, error) {
	suite, err := suite()
	if err != nil {
		return nil, err
	}
	mirror, err := mirror()
	if err != nil {
		return nil, err
	}
	return recipe{
		name: "debian-base",
		key:  keyOf(debianBaseSources, suite),
		prepare: func(ctx context.Context, scratch string) ([]layer, error) {
			if err := needDebootstrap(ctx); err != nil {
				return nil, err
			}
			base := filepath.Join(scratch, "base")
			if err := command(ctx, "", "debootstrap", "--variant=minbase", suite, base, mirror); err != nil {
				return nil, &UnavailableError{err.Error()}
			}
			return []layer{fromTree(base)}, clean(base)
		},
	}.make(ctx)
}

// unpack makes the folder dir of an image's lowest layer, with everything that fromTree wrote of it.
func unpack(ctx context.Context, im *Image, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return command(ctx, "", "tar", "--extract", "--gzip", "--file="+im.blob(im.Manifest.Layers[0].Digest), "--directory="+dir,
		"--numeric-owner", "--same-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*")
}

// suite is this machine's own release, from os-release(5): the one whose archive its keys are good for.
func suite() (string, error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", &UnavailableError{"not a Debian machine: " + err.Error()}
	}
	values := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[k] = strings.Trim(v, `"`)
	}
	if values["ID"] != "debian" || values["VERSION_CODENAME"] == "" {
		return "", &UnavailableError{"not a Debian machine but " + values["ID"]}
	}
	if os.Geteuid() != 0 {
		return "", &UnavailableError{"debootstrap needs root"}
	}
	return values["VERSION_CODENAME"], nil
}

// mirror is the archive that this machine uses, from sources.list(5) in either form.
func mirror() (string, error) {
	files, err := filepath.Glob("/etc/apt/sources.list.d/*")
	if err != nil {
		return "", err
	}
	for _, name := range append([]string{"/etc/apt/sources.list"}, files...) {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(text)) {
			if strings.HasPrefix(field, "http") && strings.HasSuffix(strings.TrimRight(field, "/"), "/debian") {
				return field, nil
			}
		}
	}
	return "", &UnavailableError{"no Debian archive in apt's sources"}
}

func needDebootstrap(ctx context.Context) error {
	if _, err := exec.LookPath("debootstrap"); err == nil {
		return nil
	}
	err := command(ctx, "", "apt-get", "update")
	if err == nil {
		err = command(ctx, "", "apt-get", "install", "-y", "--no-install-recommends", "debootstrap")
	}
	if err != nil {
		return &UnavailableError{"installing debootstrap: " + err.Error()}
	}
	return nil
}

// clean removes what apt keeps, as images do.
func clean(root string) error {
	for _, pattern := range []string{"var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*", "var/log/*.log"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}
