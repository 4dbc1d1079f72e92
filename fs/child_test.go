package fs

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// childEnv makes the test binary another program: a daemon that mounts layers, to be killed.
const childEnv = "SLUICE_TEST_DAEMON"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		fmt.Println(daemon(spec))
		return
	}
	os.Exit(m.Run())
}

// daemon mounts the layers of spec (root, mode, ref, manifest, layers), says so and waits for its end.
func daemon(spec string) error {
	ctx := context.Background()
	fields := strings.Fields(spec)
	n, err := tryNode(ctx, fields[0], Options{Mode: Mode(fields[1])})
	if err != nil {
		return err
	}
	for _, d := range fields[4:] {
		src := Source{Ref: fields[2], Manifest: digest.Digest(fields[3]), Digest: digest.Digest(d)}
		if err := n.Mount(ctx, src); err != nil {
			return err
		}
	}
	fmt.Println("mounted")
	select {}
}

// startDaemon runs a daemon in another process until it has mounted the layers.
func startDaemon(t *testing.T, root string, mode Mode, r *registry, layers ...blob) *exec.Cmd {
	t.Helper()
	spec := []string{root, string(mode), r.ref, r.manifest.String()}
	for _, l := range layers {
		spec = append(spec, l.digest.String())
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(spec, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "mounted\n" {
		t.Fatalf("daemon: %q, %v", line, err)
	}
	return cmd
}

// kill ends a child with SIGKILL, if it has not ended, and waits for it.
func kill(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}
