package start

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/prepare"
	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

func TestMain(m *testing.M) { os.Exit(stack.Isolate(m.Run)) }

const done = images.SampleLine

// fixture is a contest about one small image, between overlayfs and the systems given.
func fixture(t *testing.T, systems ...system.System) Contest {
	t.Helper()
	reg, err := stack.StartMemoryRegistry(t.Context(), link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	im, err := images.Distinct(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	all := append([]system.System{system.Overlayfs}, systems...)
	m := &prepare.Maker{Registry: reg, Systems: all, Progress: t.Logf}
	if err := m.Make(t.Context(), prepare.Subject{Name: "distinct-0", Image: im}); err != nil {
		t.Fatal(err)
	}
	return Contest{
		Section: result.Cold, Subject: "distinct", Case: "loopback", Registry: reg, Systems: all, Times: 1, Repeat: 1, Rest: true,
		Size: im.Size(), Needed: m.Needed("distinct-0"), Progress: t.Logf,
		Jobs: func(f system.Form) []Job {
			return []Job{{Ref: m.Ref("distinct-0", f), Ready: done, Output: done + "\n", Err: m.Missing("distinct-0", f)}}
		},
	}
}

// change makes a contest's job another one.
func change(c Contest, to func(j *Job)) Contest {
	jobs := c.Jobs
	c.Jobs = func(f system.Form) []Job {
		list := jobs(f)
		to(&list[0])
		return list
	}
	return c
}

func rows(t *testing.T, c Contest) (overlayfs, other *result.Row) {
	t.Helper()
	list, err := c.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].System != result.Baseline {
		t.Fatalf("rows: %+v", list)
	}
	return list[0], list[1]
}

func TestContest(t *testing.T) {
	c := fixture(t, system.Sluice("sluice esgz", system.ESGZ, ""))
	c.Link, c.Repeat, c.Times = Link{Latency: time.Millisecond, Bandwidth: 50e6}, 2, 3
	plain, lazy := rows(t, c)
	for _, r := range []*result.Row{plain, lazy} {
		if !r.OK() {
			t.Fatalf("%s: %q", r.Name(), r.Failed)
		}
		for _, m := range []result.Measure{
			result.Pull, result.Run, result.Total, result.BytesReady, result.RequestsReady, result.CPU, result.ContainerdRSS, result.Disk,
		} {
			if v := r.Measures[m]; len(v) != 2 || v[0] <= 0 {
				t.Errorf("%s: %s is %v", r.Name(), m, v)
			}
		}
		for _, m := range []result.Measure{result.All, result.BytesAll, result.RequestsAll} {
			if v := r.Measures[m]; len(v) != 1 || v[0] <= 0 {
				t.Errorf("%s: %s is %v", r.Name(), m, v)
			}
		}
		if r.Floor == nil || r.Floor.Seconds <= 0 || r.Floor.Seconds > result.Summarize(r.Measures[result.Total]).Median {
			t.Errorf("%s: floor %+v, total %v", r.Name(), r.Floor, r.Measures[result.Total])
		}
	}
	if len(plain.Measures[result.RSS]) != 0 || len(lazy.Measures[result.RSS]) != 2 {
		t.Errorf("peaks of the snapshotters: %v and %v", plain.Measures[result.RSS], lazy.Measures[result.RSS])
	}
	if len(plain.Measures[result.Prepare]) != 0 || len(lazy.Measures[result.Prepare]) != 2 || lazy.Measures[result.Prepare][0] <= 0 {
		t.Errorf("Prepare took %v and %v", plain.Measures[result.Prepare], lazy.Measures[result.Prepare])
	}
	if b := plain.Measures[result.BytesReady][0]; b < float64(c.Size) {
		t.Errorf("overlayfs was ready after %.0f bytes of %d", b, c.Size)
	}
	if lazy.Floor.Bytes >= float64(c.Size)/2 {
		t.Errorf("needed are %.0f bytes of %d", lazy.Floor.Bytes, c.Size)
	}
}

// TestFaults lets systems do what must never look fast.
func TestFaults(t *testing.T) {
	for name, fault := range map[string]struct {
		change func(*Job)
		want   string
	}{
		"wrong output":   {func(j *Job) { j.Output = "something else\n" }, `printed "` + done},
		"no output":      {func(j *Job) { j.Args = []string{"/probe", "walk", "-out", "/dev/null", "/etc"} }, "output is missing"},
		"never ready":    {func(j *Job) { j.Ready = "another line" }, "ended without having been ready"},
		"exit status":    {func(j *Job) { j.Args = []string{"/probe", "no such command"} }, "exit status 1"},
		"no such image":  {func(j *Job) { j.Ref += "-missing" }, "pull: "},
		"not converted":  {func(j *Job) { j.Err = errors.New("cannot be converted") }, "cannot be converted"},
		"no such binary": {func(j *Job) { j.Args = []string{"/nothing"} }, "/nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			c := change(fixture(t), fault.change)
			list, err := c.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			failed(t, list[0], fault.want)
		})
	}
}

func failed(t *testing.T, r *result.Row, want string) {
	t.Helper()
	if r.OK() || len(r.Failed) != 1 || len(r.Measures) > 0 || !strings.Contains(r.Failed[0], want) {
		t.Errorf("%+v, want a failure with %q", r, want)
	}
}

// TestBadSnapshotters runs peers that do not work: one ends at once, one is killed in the middle of a start.
func TestBadSnapshotters(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	daemon, err := stack.Program("containerd-sluice-grpc")
	if err != nil {
		t.Fatal(err)
	}
	systems := peers(t, fmt.Sprintf(`
[[system]]
name = "ends"
snapshotter = "ends"
command = ["/bin/sh", "-c", "echo it does not work; exit 3"]
socket = "$NODE/ends.sock"
image = "esgz"

[[system]]
name = "dies"
snapshotter = "dies"
command = ["/bin/sh", "-c", "echo $$ >%s; exec %s --config $NODE/none.toml --root $NODE/dies --state $NODE/state --address $NODE/dies.sock"]
socket = "$NODE/dies.sock"
image = "esgz"
[system.exports]
enable_remote_snapshot_annotations = "true"
[system.files]
"none.toml" = "[registry]\nconfig_path = \"$NODE/certs.d\"\n"
`, pid, daemon))
	t.Run("ends", func(t *testing.T) {
		overlayfs, r := rows(t, fixture(t, systems[0]))
		failed(t, r, "it does not work")
		if !overlayfs.OK() {
			t.Errorf("the other system failed too: %q", overlayfs.Failed)
		}
	})
	t.Run("dies", func(t *testing.T) {
		c := fixture(t, systems[1])
		c.Systems = c.Systems[1:]
		stalled := c.Registry.Link.Inject(link.Rule{Kind: link.Blob, Method: "GET", Skip: 4}, link.Stall{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go kill(ctx, t, stalled, pid)
		list, err := c.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		failed(t, list[0], "dies had ended: signal: killed")
	})
}

func peers(t *testing.T, text string) []system.System {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peers.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	there, absent, err := system.ReadPeers(path)
	if err != nil || len(absent) > 0 {
		t.Fatal(err, absent)
	}
	return there
}

// kill ends the process whose pid is in the file once a request is stalled, and lets the request go on.
func kill(ctx context.Context, t *testing.T, stalled *link.Injection, file string) {
	if stalled.Wait(ctx, 1) != nil {
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Error(err)
	}
	stalled.Remove()
}

func TestLinkNames(t *testing.T) {
	for want, l := range map[string]Link{
		"loopback":        {},
		"10 ms, 100 MB/s": {10 * time.Millisecond, 100e6},
		"1 ms, 1 GB/s":    {time.Millisecond, 1e9},
	} {
		if l.String() != want {
			t.Errorf("%q, want %q", l, want)
		}
	}
}
