package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseTask(t *testing.T) {
	for name, c := range map[string]struct {
		stat string
		want task
		ok   bool
	}{
		"plain":          {"7 (sh) S 3 7 7 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 555 1000 9", task{parent: 3, cpu: time.Second, started: "555"}, true},
		"strange name":   {"7 (a) R (b\n) S 3 7 7 0 -1 4194304 1 2 3 4 0 1 0 0 20 0 1 0 555 1000 9", task{parent: 3, cpu: 10 * time.Millisecond, started: "555"}, true},
		"zombie":         {"7 (sh) Z 1 7 7 0 -1 4194304 1 2 3 4 0 0 0 0 20 0 1 0 8 0 0", task{parent: 1, zombie: true, started: "8"}, true},
		"cut":            {"7 (sh) S 3 7 7 0", task{}, false},
		"no number":      {"7 (sh) S 3 7 7 0 -1 4194304 1 2 3 4 x 1 0 0 20 0 1 0 555 1000 9", task{}, false},
		"nothing at all": {"", task{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseTask([]byte(c.stat))
			if (err == nil) != c.ok || c.ok && got != c.want {
				t.Errorf("%+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestTrees(t *testing.T) {
	all := []task{{pid: 1}, {pid: 2, parent: 1}, {pid: 3, parent: 2}, {pid: 4, parent: 1}, {pid: 5, parent: 3}, {pid: 6, parent: 4}}
	for _, c := range []struct{ roots, want []int }{
		{nil, nil},
		{[]int{2}, []int{2, 3, 5}},
		{[]int{2, 3, 5}, []int{2, 3, 5}},
		{[]int{4, 3}, []int{3, 4, 5, 6}},
		{[]int{7}, nil},
	} {
		var got []int
		for _, f := range trees(all, c.roots...) {
			got = append(got, f.pid)
		}
		if slices.Sort(got); !slices.Equal(got, c.want) {
			t.Errorf("of %v: %v, want %v", c.roots, got, c.want)
		}
	}
}

// shell starts a shell script as a part. Its folder, below which the script may name files as $DIR, is that of a node for killRemains.
func shell(t *testing.T, script string) (*Node, *process) {
	t.Helper()
	n := &Node{dir: t.TempDir()}
	p, err := command{name: "script", log: n.path("log"), path: "/bin/sh", args: []string{"-c", script}, env: []string{"DIR=" + n.dir + "/"}}.start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		killed, err := n.killRemains()
		if err == nil {
			err = await(killed)
		}
		if err != nil {
			t.Error(err)
		}
		<-p.ended
	})
	return n, p
}

func exists(path string) error {
	_, err := os.Stat(path)
	return err
}

const (
	burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; " // some tenths of a second
	last = "exec sleep 1000"
)

// TestUsage: a child counts once, whether it lives or not.
func TestUsage(t *testing.T) {
	for name, script := range map[string]string{
		"itself":          burn + ">$DIR/burnt; " + last,
		"a child":         "(" + burn + ">$DIR/burnt; " + last + ") & wait",
		"one that ended":  "(" + burn + "); >$DIR/burnt; " + last,
		"a grandchild":    "( (" + burn + ">$DIR/burnt; " + last + ") & wait) & wait",
		"its child ended": "( (" + burn + "); >$DIR/burnt; " + last + ") & wait",
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			n, p := shell(t, script)
			if err := poll(t.Context(), p, func(context.Context) error { return exists(n.path("burnt")) }); err != nil {
				t.Fatal(err)
			}
			u, err := p.usage()
			if err != nil {
				t.Fatal(err)
			}
			// Nothing runs at the same time as something else: more processor time than time would be counted twice.
			if took := time.Since(begin) + 5*clockTick; u.CPU <= 0 || u.CPU > took {
				t.Errorf("%s of processor time in %s", u.CPU, took)
			}
			own, err := readTask(p.pid())
			if err != nil {
				t.Fatal(err)
			}
			if below := name == "a child" || name == "a grandchild" || name == "its child ended"; below != (own.cpu < u.CPU/2) {
				t.Errorf("%s in all, %s its own", u.CPU, own.cpu)
			}
		})
	}
}

func TestMemoryIsASum(t *testing.T) {
	_, p := shell(t, "sleep 1000 & sleep 1000 & wait")
	err := poll(t.Context(), p, func(context.Context) error {
		peak, rss, err := resident(p.pid())
		if err != nil {
			return err
		}
		u, err := p.usage()
		if err == nil && (u.Peak < 2*peak || u.RSS < 2*rss) {
			err = fmt.Errorf("%+v of three processes, one of which has %d, and had %d", u, rss, peak)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestUsageOfWhatHasEnded(t *testing.T) {
	_, p := shell(t, "exit 0")
	<-p.ended
	if u, err := p.usage(); err == nil || !strings.Contains(err.Error(), "usage of script") {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestMisdeeds(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, c := range map[string]struct {
		log string
		bad bool
	}{
		"nothing":            {"", false},
		"good":               {"level=info msg=\"no panic: \"\n" + long + "\n", false},
		"panic":              {"good\npanic: runtime error\n\ngoroutine 1\n", true},
		"fatal error":        {"fatal error: concurrent map writes", true},
		"race":               {"==================\nWARNING: DATA RACE\n", true},
		"after a long line":  {long + "\npanic: no\n", true},
		"within a long line": {strings.Repeat("x", 4<<10) + "panic: quoted\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(c.log), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := misdeeds(path); (err != nil) != c.bad {
				t.Errorf("got %v", err)
			}
		})
	}
}
