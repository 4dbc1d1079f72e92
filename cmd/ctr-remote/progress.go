package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/converter"
)

// progress shows how far layers have come: a bar for each on a terminal, a line for each step elsewhere.
type progress struct {
	w        io.Writer
	terminal bool

	mu     sync.Mutex
	order  []digest.Digest
	last   map[digest.Digest]converter.Progress
	drawn  int       // lines on the terminal now
	redraw time.Time // not before
}

// redrawEvery keeps a fast conversion from spending its time on the terminal.
const redrawEvery = 100 * time.Millisecond

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, last: make(map[digest.Digest]converter.Progress)}
	if f, ok := w.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.terminal = err == nil
	}
	return p
}

// update takes one step of one layer.
func (p *progress) update(now converter.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, known := p.last[now.Layer]
	if !known {
		p.order = append(p.order, now.Layer)
	}
	p.last[now.Layer] = now
	if p.terminal {
		if time.Now().After(p.redraw) {
			p.draw()
		}
		return
	}
	if !known || before.Stage != now.Stage {
		p.line(now)
	}
}

// finish draws for the last time.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		p.draw()
	}
}

func (p *progress) line(now converter.Progress) {
	text := ""
	if now.Total > 0 {
		text = " " + size(now.Total)
	}
	fmt.Fprintf(p.w, "%s %s%s\n", short(now.Layer.String()), now.Stage, text)
}

func (p *progress) draw() {
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn) // up to the first bar
	}
	for _, d := range p.order {
		now := p.last[d]
		fmt.Fprintf(&b, "\x1b[2K%s %-11s %s\n", short(d.String()), now.Stage, bar(now))
	}
	io.WriteString(p.w, b.String()) //nolint:errcheck // there is nowhere to say that nothing can be said
	p.drawn = len(p.order)
	p.redraw = time.Now().Add(redrawEvery)
}

func bar(now converter.Progress) string {
	const width = 30
	switch {
	case now.Stage == converter.Finished:
		return "[" + strings.Repeat("#", width) + "] " + size(now.Total)
	case now.Total <= 0:
		return size(now.Bytes)
	}
	done := int(min(now.Bytes, now.Total) * width / now.Total)
	return fmt.Sprintf("[%s%s] %s of %s", strings.Repeat("#", done), strings.Repeat(" ", width-done), size(now.Bytes), size(now.Total))
}
