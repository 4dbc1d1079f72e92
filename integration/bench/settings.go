package main

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/checkout"
)

// settings are what the command line asks for.
type settings struct {
	quick         bool
	allLinks      bool
	only, systems expression
	peers         string // TOML file; "" for none
	repeat        int
	out           string // folder of the report
	add           bool
	compare       string // report to compare with, instead of measuring
}

// expression is a regular expression as a flag. The zero value matches everything.
type expression struct{ *regexp.Regexp }

func (e *expression) String() string {
	if e.Regexp == nil {
		return ""
	}
	return e.Regexp.String()
}

func (e *expression) Set(text string) (err error) {
	e.Regexp, err = regexp.Compile(text)
	return err
}

func (e *expression) matches(text string) bool { return e.Regexp == nil || e.MatchString(text) }

func parse(args []string) (s settings, err error) {
	root, err := checkout.Root()
	if err != nil {
		return s, err
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.BoolVar(&s.quick, "quick", false, "three workloads on one link, in ten minutes")
	f.BoolVar(&s.allLinks, "all-links", false, "every workload on every link, in hours")
	f.Var(&s.only, "only", "measure what this `regexp` matches: section/subject/case, as cold/python/loopback")
	f.Var(&s.systems, "systems", "measure the systems whose names this `regexp` matches; overlayfs always")
	f.StringVar(&s.peers, "peers", "", "TOML `file` of further proxy snapshotters, see docs/benchmarks.md")
	f.IntVar(&s.repeat, "repeat", 5, "repetitions")
	f.StringVar(&s.out, "out", filepath.Join(root, "out", "bench"), "`folder` for the report")
	f.BoolVar(&s.add, "add", false, "keep the rows of the report that is there, as far as they are not measured again")
	f.StringVar(&s.compare, "compare", "", "measure nothing: compare the ratios of the report with those of this `report.json`")
	switch err := f.Parse(args); {
	case err != nil:
		return s, err
	case s.compare == "" && given(f, "compare"):
		return s, errors.New("-compare: which report.json?")
	case f.NArg() > 0:
		return s, fmt.Errorf("what is %q? There are only flags, see -help", f.Arg(0))
	case s.repeat < 1:
		return s, fmt.Errorf("-repeat %d: want a number from 1", s.repeat)
	}
	return s, nil
}

func given(f *flag.FlagSet, name string) (found bool) {
	f.Visit(func(g *flag.Flag) { found = found || g.Name == name })
	return found
}

// wants says whether rows of this name, which ends before the system, are to be measured.
func (s settings) wants(section result.Section, subject, kase string) bool {
	return s.only.matches(result.Situation(section, subject, kase))
}

// list is the settings for the report.
func (s settings) list() map[string]string {
	return map[string]string{
		"quick": strconv.FormatBool(s.quick), "all links": strconv.FormatBool(s.allLinks), "only": s.only.String(), "systems": s.systems.String(), "peers": s.peers,
		"repetitions": strconv.Itoa(s.repeat),
	}
}

func (s settings) file() string { return filepath.Join(s.out, "report.json") }
