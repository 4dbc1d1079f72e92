// Package result is what the benchmark suite measured: the form of out/bench/report.json, and the arithmetic on it.
//
// A Row is one system in one situation; its measures have one value for each repetition. Rows with the same section, subject and
// case are rivals: they were measured in turn, repetition by repetition, and only their ratios mean anything elsewhere.
package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Format is the version of the JSON; a reader refuses others.
const Format = 1

// Report is one run of the suite.
type Report struct {
	Format   int       `json:"format"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Setup    Setup     `json:"setup"`
	Rows     []*Row    `json:"rows"`
}

// Setup is what the figures depend on besides the code.
type Setup struct {
	Kernel     string            `json:"kernel"`
	CPU        string            `json:"cpu"` // model name
	CPUs       int               `json:"cpus"`
	Memory     int64             `json:"memory"`     // bytes
	Filesystem string            `json:"filesystem"` // below the stores
	Versions   map[string]string `json:"versions"`   // of each program
	Settings   map[string]string `json:"settings"`   // of the suite
}

// Same is an error that names the first thing that differs between two setups, of those that both have.
func (s Setup) Same(other Setup) error {
	was := map[string]string{
		"kernel": s.Kernel, "CPU": s.CPU, "CPUs": fmt.Sprint(s.CPUs), "file system": s.Filesystem, "repetitions": s.Settings["repetitions"],
	}
	is := map[string]string{
		"kernel": other.Kernel, "CPU": other.CPU, "CPUs": fmt.Sprint(other.CPUs), "file system": other.Filesystem, "repetitions": other.Settings["repetitions"],
	}
	maps.Copy(was, s.Versions)
	maps.Copy(is, other.Versions)
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if v, ok := was[name]; ok && v != is[name] {
			return fmt.Errorf("%s was %s and is %s", name, v, is[name])
		}
	}
	return nil
}

// Section is a part of the report.
type Section string

// The sections, in the order of the report.
const (
	Cold    Section = "cold"    // subject: workload; case: link
	Steady  Section = "steady"  // subject: operation; case: state of the page cache
	Scaling Section = "scaling" // subject: what grows; case: how many
	Wait    Section = "wait"    // subject: what is waited for; case: link
)

// Baseline is the system that all others are compared with, but for those of Wait, which overlayfs does not know: there it is Sluice
// when it brings nothing but what is asked for.
const (
	Baseline     = "overlayfs"
	WaitBaseline = "sluice esgz, background off"
)

// Row is one system in one situation.
type Row struct {
	Section Section  `json:"section"`
	Subject string   `json:"subject"`
	Case    string   `json:"case"`
	X       float64  `json:"x,omitempty"` // Case as a number, where something grows
	System  string   `json:"system"`
	Form    string   `json:"form,omitempty"` // of the image: a tag in the suite's registry
	Floor   *Floor   `json:"floor,omitempty"`
	Failed  []string `json:"failed,omitempty"` // why, for each repetition that failed

	Repeated int `json:"repeated,omitempty"` // repetitions that were done again because a container's output got lost

	// Measures have a value for each repetition that succeeded, oldest first.
	Measures map[Measure][]float64 `json:"measures"`
}

// Floor is what Total cannot be faster than.
type Floor struct {
	Bytes      float64 `json:"bytes"`       // that have to come through the link
	RoundTrips int     `json:"round_trips"` // that depend on each other
	Local      float64 `json:"local"`       // seconds from create to ready where all is unpacked and in the page cache
	Seconds    float64 `json:"seconds"`     // round trips, and then the longer of transfer and local run
}

// NewFloor computes the seconds from the parts. Latency is in seconds, bandwidth in bytes per second; 0 means unlimited.
func NewFloor(bytes float64, trips int, local, latency, bandwidth float64) *Floor {
	f := &Floor{Bytes: bytes, RoundTrips: trips, Local: local}
	transfer := 0.0
	if bandwidth > 0 {
		transfer = bytes / bandwidth
	}
	f.Seconds = float64(trips)*latency + max(transfer, local)
	return f
}

// Situation names what rivals share, and is how they are chosen on the command line: section/subject/case.
func Situation(section Section, subject, kase string) string {
	return fmt.Sprintf("%s/%s/%s", section, subject, kase)
}

// Name is the row's situation and its system.
func (r *Row) Name() string { return Situation(r.Section, r.Subject, r.Case) + "/" + r.System }

// Baseline is the system that the row is compared with.
func (r *Row) Baseline() string {
	if r.Section == Wait {
		return WaitBaseline
	}
	return Baseline
}

// Rivals says whether two rows are of the same situation.
func (r *Row) Rivals(other *Row) bool {
	return r.Section == other.Section && r.Subject == other.Subject && r.Case == other.Case
}

// OK says whether every repetition did what it should; a row that is not OK has no place in a comparison.
func (r *Row) OK() bool { return len(r.Failed) == 0 && len(r.Measures) > 0 }

// Add appends the values of one repetition.
func (r *Row) Add(values map[Measure]float64) {
	if r.Measures == nil {
		r.Measures = make(map[Measure][]float64)
	}
	for m, v := range values {
		r.Measures[m] = append(r.Measures[m], v)
	}
}

// Fail records a repetition that failed.
func (r *Row) Fail(err error) { r.Failed = append(r.Failed, err.Error()) }

// Find returns the row of the name's parts, or nil.
func (p *Report) Find(section Section, subject, kase, system string) *Row {
	for _, r := range p.Rows {
		if r.Section == section && r.Subject == subject && r.Case == kase && r.System == system {
			return r
		}
	}
	return nil
}

// Rival is the baseline's row in the situation of r, or nil if it was not measured.
func (p *Report) Rival(r *Row) *Row { return p.Find(r.Section, r.Subject, r.Case, r.Baseline()) }

// Ratio compares the medians of m in r and in the baseline. It is false if either failed, or lacks m, or took nothing.
func (p *Report) Ratio(r *Row, m Measure) (float64, bool) {
	rival := p.Rival(r)
	if rival == nil || !rival.OK() || !r.OK() {
		return 0, false
	}
	mine, theirs := r.Measures[m], rival.Measures[m]
	if len(mine) == 0 || len(theirs) == 0 || Summarize(mine).Median == 0 || Summarize(theirs).Median == 0 {
		return 0, false
	}
	return Summarize(mine).Median / Summarize(theirs).Median, true
}

// Write replaces the file at path.
func (p *Report) Write(path string) (err error) {
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".report-")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write report: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// Read reads a report back.
func Read(path string) (*Report, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	p := new(Report)
	if err := json.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("read report %s: %w", path, err)
	}
	if p.Format != Format {
		return nil, fmt.Errorf("read report %s: format %d, this program reads %d: measure again", path, p.Format, Format)
	}
	return p, nil
}
