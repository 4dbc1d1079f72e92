package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// settings are what the environment asks for.
type settings struct {
	latency   time.Duration
	bandwidth int64  // bytes per second
	image     string // "" means the Go toolchain's
	runs      int
}

func readSettings(getenv func(string) string) (s settings, err error) {
	value := func(name, fallback string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return fallback
	}
	if s.latency, err = time.ParseDuration(value("LATENCY", "20ms")); err != nil || s.latency < 0 {
		return s, fmt.Errorf("LATENCY=%s: want a duration, as 20ms", getenv("LATENCY"))
	}
	if s.bandwidth, err = parseBytes(value("BANDWIDTH", "50MB")); err != nil {
		return s, fmt.Errorf("BANDWIDTH=%s: %w", getenv("BANDWIDTH"), err)
	}
	if s.runs, err = strconv.Atoi(value("RUNS", "5")); err != nil || s.runs < 1 {
		return s, fmt.Errorf("RUNS=%s: want a number from 1", getenv("RUNS"))
	}
	s.image = getenv("IMAGE")
	return s, nil
}

// parseBytes reads a number of bytes with a decimal or binary unit: 50MB, 1GiB, 500k; "/s" may follow.
func parseBytes(text string) (int64, error) {
	number := strings.TrimSuffix(text, "/s")
	number = strings.TrimSuffix(number, "B")
	unit := 1.0
	for _, u := range []struct {
		suffix string
		bytes  float64
	}{
		{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"K", 1e3}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9},
	} {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n <= 0 || n*unit > 1e15 {
		return 0, errors.New("want bytes, as 50MB")
	}
	return int64(n * unit), nil
}
