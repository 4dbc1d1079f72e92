package stack

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	criapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
)

// CRI talks to a node's containerd as a kubelet does. Close it.
type CRI struct {
	Runtime criapi.RuntimeService
	Images  criapi.ImageManagerService

	logs string
}

// CRI connects to the node's CRI plugin.
func (n *Node) CRI(ctx context.Context) (*CRI, error) {
	endpoint := "unix://" + n.Socket()
	r, err := cri.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(readyTimeout).Build(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to CRI: %w", err)
	}
	i, err := cri.NewRemoteImageServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(readyTimeout).Build(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to CRI: %w", err), r.Close(ctx))
	}
	return &CRI{Runtime: r, Images: i, logs: n.path("pods")}, nil
}

// Close ends the connections.
func (c *CRI) Close(ctx context.Context) error {
	return errors.Join(c.Images.Close(ctx), c.Runtime.Close(ctx))
}

// Pull pulls an image with the CRI plugin's snapshotter.
func (c *CRI) Pull(ctx context.Context, ref string) error {
	_, err := c.Images.PullImage(ctx, &runtimeapi.ImageSpec{Image: ref}, nil, nil)
	return err
}

// RunPod runs one container of an image that was pulled, in a pod of its own on the host's network, to its end, and returns
// its standard output. The error says so if the exit code is not 0. Nil args run the image's command.
func (c *CRI) RunPod(ctx context.Context, ref string, args ...string) (string, error) {
	return c.runPod(ctx, pod{cri: c, config: podConfig(c.logs, hostNetwork())}, ref, args)
}

// UserNamespace is that of a pod: its 65,536 ids are the host's from First on.
type UserNamespace struct {
	First uint32
	Ended func(container string) // called with the container's id before that is removed
}

// RunUserPod is RunPod in a pod with a user namespace. Such a pod has to have a network of its own: the node needs AddNetwork.
func (c *CRI) RunUserPod(ctx context.Context, u UserNamespace, ref string, args ...string) (string, error) {
	ids := []*runtimeapi.IDMapping{{HostId: u.First, Length: 1 << 16}}
	return c.runPod(ctx, pod{cri: c, ended: u.Ended, config: podConfig(c.logs, &runtimeapi.NamespaceOption{
		UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids},
	})}, ref, args)
}

func (c *CRI) runPod(ctx context.Context, p pod, ref string, args []string) (_ string, err error) {
	if err := os.MkdirAll(p.config.GetLogDirectory(), 0o755); err != nil {
		return "", err
	}
	id, err := c.Runtime.RunPodSandbox(ctx, p.config, "")
	if err != nil {
		return "", fmt.Errorf("run pod sandbox: %w", err)
	}
	defer func() {
		err = errors.Join(err, c.Runtime.StopPodSandbox(ctx, id), c.Runtime.RemovePodSandbox(ctx, id))
	}()
	return p.run(ctx, id, ref, args)
}

type pod struct {
	cri    *CRI
	config *runtimeapi.PodSandboxConfig
	ended  func(container string) // may be nil
}

func podConfig(logs string, namespaces *runtimeapi.NamespaceOption) *runtimeapi.PodSandboxConfig {
	uid := strings.ToLower(rand.Text())
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "pod", Uid: uid, Namespace: "default"},
		LogDirectory: filepath.Join(logs, uid),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: namespaces},
		},
	}
}

// hostNetwork because there is no CNI plugin but AddNetwork's.
func hostNetwork() *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
}

// run creates and starts the container and waits for its end.
func (p pod) run(ctx context.Context, sandbox, ref string, args []string) (string, error) {
	id, err := p.cri.Runtime.CreateContainer(ctx, sandbox, &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "container"},
		Image:    &runtimeapi.ImageSpec{Image: ref},
		Args:     args,
		LogPath:  "log",
		Linux: &runtimeapi.LinuxContainerConfig{
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.GetLinux().GetSecurityContext().GetNamespaceOptions(),
			},
		},
	}, p.config)
	if err != nil {
		return "", fmt.Errorf("create container of %s: %w", ref, err)
	}
	if err := p.cri.Runtime.StartContainer(ctx, id); err != nil {
		return "", fmt.Errorf("start container of %s: %w", ref, err)
	}
	var status *runtimeapi.ContainerStatus
	err = poll(ctx, nil, func(ctx context.Context) error {
		answer, err := p.cri.Runtime.ContainerStatus(ctx, id, false)
		if err != nil {
			return err
		}
		if status = answer.GetStatus(); status.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
			return fmt.Errorf("container is %s", status.GetState())
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("wait for container of %s: %w", ref, err)
	}
	if p.ended != nil {
		p.ended(id)
	}
	out, diagnostics, err := readLog(filepath.Join(p.config.GetLogDirectory(), "log"))
	if err == nil && status.GetExitCode() != 0 {
		err = fmt.Errorf("container of %s: exit code %d: %s", ref, status.GetExitCode(), diagnostics)
	}
	return out, err
}

// readLog splits a CRI log, lines of "time stream P|F text", P for a part of a line, into the streams.
func readLog(path string) (out, diagnostics string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20) // the CRI plugin cuts lines at 16 KiB
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), " ", 4)
		if len(fields) != 4 {
			return "", "", fmt.Errorf("%s: line %q", path, lines.Text())
		}
		text := fields[3]
		if fields[2] == "F" {
			text += "\n"
		}
		if fields[1] == "stdout" {
			out += text
		} else {
			diagnostics += text
		}
	}
	return out, diagnostics, lines.Err()
}
