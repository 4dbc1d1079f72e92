package integration

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// packaged is an image with packages that wait to be installed: containers have no network.
var packaged = images.DebianOptions{
	Name:     "packages",
	Packages: [][]string{{"python3-minimal"}, {"libcap2-bin", "iputils-ping"}},
	Script: `
apt-get update
apt-get install -y --no-install-recommends --download-only cron less nano perl
mkdir /srv/packages
mv /var/cache/apt/archives/*.deb /srv/packages
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin`,
	Cmd: []string{"/bin/true"},
}

// manage is a busy hour of an administrator's: packages with maintainer scripts, alternatives, configuration files, hard links and
// groups of their own come, some go again, and so do some that were in the image; folders go, move, and change their modes.
const manage = `
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get install -qq -y -o Dpkg::Options::=--force-unsafe-io /srv/packages/*.deb >&2
apt-get remove -qq -y less >&2
apt-get purge -qq -y cron nano iputils-ping >&2
rm -rf /usr/share/doc
mv /usr/lib/python3.* /usr/lib/renamed
mv /usr/share/perl /usr/share/renamed
mv /etc/apt /srv/apt
mv /srv/apt /etc/apt
mv /srv/packages /opt/packages
chmod -R go-rwx,u+s /usr/share/zoneinfo
chmod -R a+w /var/lib/dpkg
`

// TestPackages runs manage on lazy layers and on overlayfs, and compares what is left.
func TestPackages(t *testing.T) {
	s := debianSubject(t, packaged, "/usr/bin/dpkg")
	start := time.Now()
	reg := registry(t)
	n := nodeWith(t, stack.NodeOptions{})
	plain := stack.Container{Ref: upload(t, reg, plainImage(t, s), "test/packages:plain")}
	if err := n.Pull(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	want := managed(t, n, plain, start)
	for path, there := range map[string]bool{
		"/var/lib/dpkg/info/perl.list": true, "/usr/share/renamed": true, "/usr/lib/renamed": true, "/etc/apt/sources.list": true,
		"/usr/bin/less": false, "/usr/bin/crontab": false, "/bin/ping": false, "/usr/bin/ping": false, "/usr/share/doc": false,
	} {
		if _, ok := want[path]; ok != there {
			t.Errorf("on overlayfs %s: %t, want %t", path, ok, there)
		}
	}
	eachMount(t, func(t *testing.T, mount string) {
		n := node(t, mount)
		lazy := lazily(stack.Container{Ref: upload(t, reg, lazyImage(t, s), "test/packages:esgz")})
		pull(t, n, lazy)
		sameTree(t, managed(t, n, lazy, start), want)
	})
}

// managed is the tree of a container in which manage has run. What was written since start has the same time everywhere; that something
// was written at all is compared.
func managed(t *testing.T, n *stack.Node, c stack.Container, start time.Time) map[string]entry {
	t.Helper()
	dirs := []string{"/bin", "/boot", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/probe", "/root", "/sbin", "/srv", "/tmp", "/usr", "/var"}
	c.Args = []string{"/bin/sh", "-ec", manage + strings.Join(slices.Concat(walkArgs, dirs), " ")}
	tree := walked(t, n, c)
	for path, e := range tree {
		if e.Mtime >= start.UnixNano() {
			e.Mtime = start.UnixNano()
		}
		if timely(path) {
			e.SHA256 = ""
		}
		tree[path] = e
	}
	return tree
}

// timely says that times are in a file's content, of all the same length.
func timely(path string) bool {
	return slices.Contains([]string{
		"/var/log/alternatives.log", "/var/log/apt/history.log", "/var/log/apt/term.log", "/var/log/dpkg.log",
		"/var/cache/apt/pkgcache.bin", "/var/cache/apt/srcpkgcache.bin", // of dpkg's status file
		"/var/cache/ldconfig/aux-cache", // of libraries, and their inode numbers
	}, path)
}
