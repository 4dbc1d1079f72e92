package main

import (
	"encoding"
	"errors"
	"fmt"
	"net"
	"path"
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

// directory is an absolute path that mount options can hold.
type directory struct{ string }

func (d *directory) UnmarshalText(b []byte) error {
	switch {
	case len(b) == 0:
		return errors.New("must not be empty")
	case !filepath.IsAbs(string(b)):
		return fmt.Errorf("%q is not an absolute path", b)
	case strings.ContainsAny(string(b), ",:\\"): // as fs.Options has it
		return fmt.Errorf("%q has a colon, a comma or a backslash, which mount options cannot hold", b)
	}
	d.string = string(b)
	return nil
}

func (d *directory) String() string { return d.string }

// socket is the absolute path of a unix socket, or empty.
type socket struct{ string }

// maxSocket is how many bytes the path of a unix socket may have: unix(7) has
// room for 108, with a zero at the end.
const maxSocket = 107

func (s *socket) UnmarshalText(b []byte) error {
	if len(b) > 0 && !filepath.IsAbs(string(b)) {
		return fmt.Errorf("%q is not an absolute path", b)
	}
	s.string = string(b)
	return s.check()
}

// check says whether a socket can have this path.
func (s *socket) check() error {
	if len(s.string) > maxSocket {
		return fmt.Errorf("%q is %d bytes long, and the path of a unix socket has at most %d", s.string, len(s.string), maxSocket)
	}
	return nil
}

func (s *socket) String() string { return s.string }

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
	case fs.Auto, fs.EROFS, fs.Loop, fs.FUSE:
		m.Mode = fs.Mode(b)
		return nil
	}
	return fmt.Errorf("%q is not one of auto, erofs, loop, fuse", b)
}

func (m *mount) String() string { return string(m.Mode) }

// verify is how far layers are checked, empty for what fits their image.
type verify struct{ string }

// The ways to check layers.
const (
	verifyWhole  = "whole"
	verifyChunks = "chunks"
)

func (v *verify) UnmarshalText(b []byte) error {
	switch string(b) {
	case "", verifyWhole, verifyChunks:
		v.string = string(b)
		return nil
	}
	return fmt.Errorf("%q is not one of %s, %s", b, verifyWhole, verifyChunks)
}

func (v *verify) String() string { return v.string }

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

// count is a number that is at least 1.
type count uint32

// percent is a number from 0 to 100.
type percent uint8

// pattern says which images something is for.
type pattern struct{ string }

func (p *pattern) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		return errors.New("must not be empty")
	}
	if _, err := path.Match(string(b), ""); err != nil {
		return fmt.Errorf("%q is not a pattern like \"registry.example.com/*/app\"", b)
	}
	p.string = string(b)
	return nil
}

func (p *pattern) String() string { return p.string }

// matches reports whether the pattern, which is a valid one, is that of an image's reference or of its beginning.
func (p *pattern) matches(ref string) bool {
	for i := range len(ref) + 1 {
		if i < len(ref) && !strings.ContainsRune("/:@", rune(ref[i])) {
			continue
		}
		if ok, _ := path.Match(p.string, ref[:i]); ok {
			return true
		}
	}
	return false
}

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

// limit is a size that is at least 1.
type limit struct{ size }

func (l *limit) UnmarshalText(b []byte) error {
	if err := l.size.UnmarshalText(b); err != nil {
		return err
	}
	if l.bytes == 0 {
		return fmt.Errorf("must be at least 1, found %q", b)
	}
	return nil
}
