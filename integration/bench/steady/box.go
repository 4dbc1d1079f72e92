package steady

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/checkout"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

const (
	limit      = 2 * time.Minute // of one operation
	longLimit  = 10 * time.Minute
	grace      = 30 * time.Second // for all around the operation
	surveyName = "survey.json"
	surveyPath = "/bench/" + surveyName // inside containers
)

// box is two folders that every container sees: the reader's, as /bench, and one for what it writes, as /out.
type box struct{ dir string }

// newBox builds the reader.
func newBox(ctx context.Context) (*box, error) {
	dir, err := os.MkdirTemp("", "steady")
	if err != nil {
		return nil, err
	}
	b := &box{dir}
	err = checkout.Build{
		Packages: []string{"./integration/bench/reader"},
		Out:      b.bench("reader"),
		Flags:    []string{"-trimpath", "-buildvcs=false"},
		Env:      []string{"CGO_ENABLED=0", "GOFLAGS="},
	}.Run(ctx)
	if err != nil {
		return nil, errors.Join(err, b.remove())
	}
	return b, nil
}

func (b *box) bench(name string) string { return filepath.Join(b.dir, "bench", name) }
func (b *box) out(name string) string   { return filepath.Join(b.dir, "out", name) }
func (b *box) remove() error            { return os.RemoveAll(b.dir) }

// job is a container that runs the reader.
type job struct {
	container stack.Container // without flags and arguments
	args      []string        // of the reader: an operation
	times     int
	limit     time.Duration // of each time
	memory    int64         // bytes that the container may have, with the page cache of what it reads; 0 means no limit
}

// run returns an outcome for each of the times.
func (b *box) run(ctx context.Context, n *stack.Node, j job) []outcome {
	if err := errors.Join(os.RemoveAll(b.out("")), os.Mkdir(b.out(""), 0o755)); err != nil {
		return outcomes(j.times, nil, err)
	}
	// The reader ends by itself first, and its container with it.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(j.times)*j.limit+grace)
	defer cancel()
	c := j.container
	c.Flags = []string{
		"--mount", "type=bind,src=" + b.bench("") + ",dst=/bench,options=rbind:ro",
		"--mount", "type=bind,src=" + b.out("") + ",dst=/out,options=rbind:rw",
	}
	if j.memory > 0 {
		c.Flags = append(c.Flags, "--memory-limit", strconv.FormatInt(j.memory, 10))
	}
	c.Args = append([]string{"/bench/reader", "-out", "/out/readings", "-times", strconv.Itoa(j.times), "-limit", j.limit.String()}, j.args...)
	_, failed := n.Run(ctx, c)
	readings, err := b.readings()
	if err != nil && failed == nil {
		failed = err
	}
	return outcomes(j.times, readings, failed)
}

// readings are those that a container has written, as far as it came.
func (b *box) readings() ([]reading, error) {
	text, err := os.ReadFile(b.out("readings"))
	if err != nil {
		return nil, err
	}
	var all []reading
	for d := json.NewDecoder(bytes.NewReader(text)); d.More(); {
		var r reading
		if err := d.Decode(&r); err != nil {
			return all, fmt.Errorf("the reader's results: %w", err)
		}
		all = append(all, r)
	}
	return all, nil
}

// survey finds what there is to read in an image.
func (b *box) survey(ctx context.Context, n *stack.Node, c stack.Container) (f findings) {
	args := []string{"survey", "/usr", "/out/" + surveyName, strconv.Itoa(smallFiles)}
	if o := b.run(ctx, n, job{container: c, args: args, times: 1, limit: limit})[0]; o.err != nil {
		f.err = fmt.Errorf("survey: %w", o.err)
		return f
	}
	if f.err = os.Rename(b.out(surveyName), b.bench(surveyName)); f.err != nil {
		return f
	}
	text, err := os.ReadFile(b.bench(surveyName))
	if f.err = err; err == nil {
		f.err = json.Unmarshal(text, &f)
	}
	return f
}
