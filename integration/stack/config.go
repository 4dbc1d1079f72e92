package stack

import (
	"errors"
	"os"
	"strings"
	"text/template"
)

// settings fill in containerd's configuration.
type settings struct {
	Dir     string
	Runc    string
	Pause   string
	CRI     string // snapshotter
	Proxies []proxy
}

// proxyConfig is the same for every version.
const proxyConfig = `
{{- range .Proxies}}
[proxy_plugins.{{.Name}}]
type = "snapshot"
address = "{{.Socket}}"
capabilities = [{{range $i, $c := .Capabilities}}{{if $i}}, {{end}}"{{$c}}"{{end}}]
[proxy_plugins.{{.Name}}.exports]
{{- range $key, $value := .Exports}}
{{$key}} = "{{$value}}"
{{- end}}
{{- end}}
`

// config2 is for containerd 2 (docs/cri/config.md and "containerd config default" there). What needs more than this kernel and this
// folder is off.
var config2 = template.Must(template.New("").Parse(`version = 3
root = "{{.Dir}}/root"
state = "{{.Dir}}/state"
imports = []
disabled_plugins = [
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs", "io.containerd.differ.v1.erofs",
]
[grpc]
address = "{{.Dir}}/containerd.sock"
[ttrpc]
address = "{{.Dir}}/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{{.Dir}}/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.cri.v1.images"]
snapshotter = "{{.CRI}}"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{{.Pause}}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{{.Dir}}/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{{.Dir}}/cni/bin"]
conf_dir = "{{.Dir}}/cni/conf"
use_internal_loopback = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{{.Runc}}"
SystemdCgroup = false
[plugins."io.containerd.transfer.v1.local"]
config_path = "{{.Dir}}/certs.d"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux"
snapshotter = "overlayfs"
{{- range .Proxies}}
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux"
snapshotter = "{{.Name}}"
{{- end}}
` + proxyConfig))

// config17 is for containerd 1.7.
var config17 = template.Must(template.New("").Parse(`version = 2
root = "{{.Dir}}/root"
state = "{{.Dir}}/state"
imports = []
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing",
]
[grpc]
address = "{{.Dir}}/containerd.sock"
[ttrpc]
address = "{{.Dir}}/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{{.Dir}}/opt"
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{{.Pause}}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{{.CRI}}"
disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{{.Dir}}/certs.d"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{{.Dir}}/cni/bin"
conf_dir = "{{.Dir}}/cni/conf"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{{.Runc}}"
SystemdCgroup = false
` + proxyConfig))

// writeConfig writes containerd's configuration and makes the folders that it names.
func (n *Node) writeConfig() error {
	for _, dir := range []string{"certs.d", "cni/bin", "cni/conf", "docker", "opt"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			return err
		}
	}
	s := settings{
		Dir: n.dir, Runc: n.bins[len(n.bins)-1] + "/runc", Pause: n.options.PauseImage, CRI: n.options.CRI, Proxies: n.proxies(),
	}
	if s.CRI == "" {
		s.CRI = map[bool]string{true: "sluice", false: "overlayfs"}[n.options.Daemon != nil]
	}
	t := config2
	if n.options.Containerd == Containerd17 {
		t = config17
	}
	var text strings.Builder
	if err := t.Execute(&text, s); err != nil {
		return err
	}
	return os.WriteFile(n.path("containerd.toml"), []byte(text.String()), 0o644)
}

// AddHost writes containerd's hosts.toml for a registry host, which containerd and the daemon read alike.
func (n *Node) AddHost(host, toml string) error {
	dir := n.path("certs.d", host)
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/hosts.toml", []byte(toml), 0o644))
}

// AddDockerConfig writes the docker config.json that the daemon takes credentials from.
func (n *Node) AddDockerConfig(json string) error {
	return os.WriteFile(n.path("docker", "config.json"), []byte(json), 0o600)
}

// network is a CNI plugin that does nothing, and says that it has given the pod an address.
const network = `#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "'"$CNI_IFNAME"'", "sandbox": "'"$CNI_NETNS"'"}], "ips": [{"address": "192.0.2.2/24", "interface": 0}]}'
`

// AddNetwork makes pods possible that are not on the host's network. They have none.
func (n *Node) AddNetwork() error {
	config := `{"cniVersion": "1.0.0", "name": "none", "plugins": [{"type": "none"}]}`
	return errors.Join(
		os.WriteFile(n.path("cni/bin/none"), []byte(network), 0o755),
		os.WriteFile(n.path("cni/conf/none.conflist"), []byte(config), 0o644),
	)
}
