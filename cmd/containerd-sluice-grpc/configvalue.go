package main

import (
	"encoding"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sluice-snapshotter/sluice/fs"
)

// value is the type of a key whose values have rules. Each is a struct, because
// go-toml asks UnmarshalText only for kinds that TOML does not have, and would
// take the 30 of "stall_timeout = 30" for nanoseconds.
type value interface {
	encoding.TextUnmarshaler
	fmt.Stringer // what UnmarshalText reads
}

// path is an absolute path, or empty.
type path struct{ string }

func (p *path) UnmarshalText(b []byte) error {
	if len(b) > 0 && !filepath.IsAbs(string(b)) {
		return fmt.Errorf("%q is not an absolute path", b)
	}
	if strings.ContainsAny(string(b), ":,") {
		return fmt.Errorf("%q has a colon or a comma, which mount options cannot hold", b)
	}
	p.string = string(b)
	return nil
}

func (p *path) String() string { return p.string }

// address is host:port, or empty.
type address struct{ string }

func (a *address) UnmarshalText(b []byte) error {
	if len(b) > 0 {
		_, port, err := net.SplitHostPort(string(b))
		if err != nil {
			return fmt.Errorf("%q is not host:port", b)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("%q: %q is not a port number", b, port)
		}
	}
	a.string = string(b)
	return nil
}

func (a *address) String() string { return a.string }

// level is a log level.
type level struct{ logrus.Level }

func (l *level) UnmarshalText(b []byte) error {
	parsed, err := logrus.ParseLevel(string(b))
	if err != nil || parsed < logrus.ErrorLevel {
		return fmt.Errorf("%q is not one of trace, debug, info, warn, error", b)
	}
	l.Level = parsed
	return nil
}

// mount is a way of mounting layers.
type mount struct{ fs.Mode }

func (m *mount) UnmarshalText(b []byte) error {
	switch fs.Mode(b) {
	case fs.Auto, fs.EROFS, fs.FUSE:
		m.Mode = fs.Mode(b)
		return nil
	}
	return fmt.Errorf("%q is not one of auto, erofs, fuse", b)
}

func (m *mount) String() string { return string(m.Mode) }

// duration is a length of time, not negative.
type duration struct{ time.Duration }

func (d *duration) UnmarshalText(b []byte) error {
	parsed, err := time.ParseDuration(string(b))
	if err != nil || parsed < 0 {
		return fmt.Errorf("%q is not a duration like \"30s\" or \"1m30s\"", b)
	}
	d.Duration = parsed
	return nil
}

// count is a number that is not negative.
type count uint32

// size is a number of bytes, written with a unit.
type size struct{ bytes int64 }

// units are in the order in which String looks for one that fits.
var units = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func (s *size) UnmarshalText(b []byte) error {
	number, unit := string(b), int64(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = n, u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 62)
	if err != nil || int64(n) > (1<<62)/unit {
		return fmt.Errorf("%q is not a size like \"256MiB\" (KiB, MiB, GiB, TiB)", b)
	}
	s.bytes = int64(n) * unit
	return nil
}

func (s *size) String() string {
	for _, u := range units {
		if s.bytes >= u.bytes && s.bytes%u.bytes == 0 {
			return fmt.Sprintf("%d%s", s.bytes/u.bytes, u.name)
		}
	}
	return strconv.FormatInt(s.bytes, 10)
}
