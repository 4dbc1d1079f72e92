package stack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// misdeeds finds panics and data races in the log of a Go program: the runtime's own words, not the program's.
func misdeeds(log string) error {
	f, err := os.Open(log)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewReaderSize(f, 4<<10)
	for whole := true; ; {
		line, prefix, err := lines.ReadLine()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if whole && misdeed(string(line)) {
			return fmt.Errorf("%s has %q:\n%s", filepath.Base(log), line, tail(log, 100))
		}
		whole = !prefix // the runtime's lines are short: the rest of a long one is none
	}
}

func misdeed(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.Contains(line, "WARNING: DATA RACE")
}
