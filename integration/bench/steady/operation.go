package steady

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

const (
	randomReads = 10_000
	smallFiles  = 10_000

	// squeezedReads are enough to touch three quarters of torch's largest file, 120 MB, so that they find half of it in memory at most.
	squeezedReads = 40_000
	// leastMemory is bytes: runc and the reader take some 20 MB of what their container may have.
	leastMemory = 32 << 20
)

// The cases of an operation are these, but what reads everything leaves no layer incomplete, and what is there in part comes by way of a server.
var (
	everyCase  = []string{FirstRead, CompleteCold, CompleteWarm, IncompleteCold, IncompleteWarm}
	ofWhole    = everyCase[:3]
	ofSqueezed = everyCase[1:3]
)

// operation is a subject.
type operation struct {
	name     string
	measure  result.Measure
	warm     int                                // how often it is done warm, in one container
	args     func(f findings) ([]string, error) // of the reader
	cases    []string
	squeezed bool // its container may have half as much memory as the large file has bytes; of native systems
}

const tarName = "tar"

// short is how often an operation is done warm that takes but milliseconds then.
const short = 9

// operations are in the order of the report.
func (r *runner) operations() []operation {
	ops := []operation{
		{"sequential read", result.Throughput, short, onLarge("sequential"), everyCase, false},
		{"random 4 KiB read", result.Rate, short, onLarge("random", strconv.Itoa(randomReads)), everyCase, false},
		{"random 4 KiB read, little memory", result.Rate, 1, onLarge("random", strconv.Itoa(squeezedReads)), ofSqueezed, true},
		{"mmap fault-in", result.Throughput, short, onLarge("map"), everyCase, false},
		{"find", result.Seconds, 1, fixed("find", "/"), everyCase, false},
		{"find with stat", result.Seconds, 1, fixed("stat", "/"), everyCase, false},
		{tarName, result.Seconds, 1, fixed("tar", "/"), ofWhole, false},
		{"10,000 small files", result.Seconds, 1, onSmall, everyCase, false},
	}
	if r.Torch {
		// It prints the version, so that what was imported is compared.
		args := fixed("run", "/usr/bin/python3", "-c", "import torch; print(torch.__version__)")
		ops = append(ops, operation{"import torch", result.Seconds, 1, args, everyCase, false})
	}
	return ops
}

// findings say what there is to read in the image.
type findings struct {
	Large     string   `json:"large"`
	LargeSize int64    `json:"large_size"` // bytes; 0 if that was not looked for
	Small     []string `json:"small"`

	err error // why there are none
}

// half is the bytes of memory that hold half of the large file at most.
func (f findings) half() (int64, error) {
	if half := f.LargeSize / 2; half >= leastMemory {
		return half, nil
	}
	return 0, fmt.Errorf("the large file has %d bytes: a container cannot run with half as much memory", f.LargeSize)
}

func fixed(args ...string) func(findings) ([]string, error) {
	return func(findings) ([]string, error) { return args, nil }
}

func onLarge(name string, more ...string) func(findings) ([]string, error) {
	return func(f findings) ([]string, error) {
		if f.Large == "" {
			return nil, fmt.Errorf("no large file: %w", f.err)
		}
		return append([]string{name, f.Large}, more...), nil
	}
}

func onSmall(f findings) ([]string, error) {
	if f.err != nil {
		return nil, fmt.Errorf("no small files: %w", f.err)
	}
	if n := len(f.Small); n < smallFiles {
		return nil, fmt.Errorf("the image has %d small files below /usr, want %d", n, smallFiles)
	}
	return []string{"small", surveyPath}, nil
}

// reading is what the reader writes for one operation; see its package.
type reading struct {
	Seconds float64 `json:"seconds"`
	Amount  int64   `json:"amount"`
	Check   string  `json:"check"`
	Error   string  `json:"error"`
}

func (op operation) value(r reading) float64 {
	if op.measure.More() {
		return float64(r.Amount) / r.Seconds
	}
	return r.Seconds
}

// outcome is a reading or why there is none.
type outcome struct {
	reading
	err error
}

// outcomes are one for each of the times that were asked for, from the readings that were written and the error of the container.
func outcomes(times int, readings []reading, failed error) []outcome {
	all := make([]outcome, times)
	for i := range all {
		switch {
		case i >= len(readings) && failed == nil:
			all[i].err = fmt.Errorf("%d results, want %d", len(readings), times)
		case i >= len(readings):
			all[i].err = failed
		case readings[i].Error != "":
			all[i].err = errors.New(readings[i].Error)
		default:
			all[i].reading = readings[i]
		}
	}
	// An error that none of the readings explains may concern any of them.
	for _, o := range all {
		if o.err != nil {
			return all
		}
	}
	for i := range all {
		all[i].err = failed
	}
	return all
}

// middle is the one of several outcomes that took the median time, if all went well and read the same.
func middle(all []outcome) outcome {
	for _, o := range all {
		if o.err != nil {
			return o
		}
		if o.Check != all[0].Check {
			return outcome{err: fmt.Errorf("read %s, and %s another time", all[0].Check, o.Check)}
		}
	}
	sorted := slices.SortedFunc(slices.Values(all), func(a, b outcome) int { return cmp.Compare(a.Seconds, b.Seconds) })
	return sorted[len(sorted)/2]
}
