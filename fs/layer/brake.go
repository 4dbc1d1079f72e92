package layer

import (
	"fmt"
	"math"
	"os"
	"time"
)

const (
	// brakeSlack is for how long what was not used of a rate can be made up for, so that timers that are late cost nothing.
	brakeSlack = 100 * time.Millisecond

	// pressureLook is how often at most the kernel is asked for its pressure, which it averages every two seconds.
	pressureLook = time.Second

	// pressureFile is described in the kernel's Documentation/accounting/psi.rst.
	pressureFile = "/proc/pressure/io"
)

// brake holds Background back: to a rate, and while tasks stall on IO. It holds back what is to begin: a range is charged as a whole
// when it is admitted, goes as fast as it can, and what comes next waits until it is paid for. So a low rate holds no connection,
// place or memory for long. The lock of its gate guards it; a nil one never holds.
type brake struct {
	rate     int64                   // bytes a second; 0: any
	most     float64                 // percent of pressure; 0: any, and it is not looked at
	pressure func() (float64, error) // what it is

	paid   time.Time // when all that was admitted is paid for
	looked time.Time // at the pressure
	high   bool      // it was more than most
}

// hold returns for how long nothing is to begin; 0: something may.
func (b *brake) hold() time.Duration {
	if b == nil {
		return 0
	}
	now := time.Now()
	if debt := b.paid.Sub(now); debt > 0 {
		return debt
	}
	return b.look(now)
}

// look returns how long it is until the pressure may be low enough. Where it cannot be read there is none.
func (b *brake) look(now time.Time) time.Duration {
	if b.most == 0 {
		return 0
	}
	if now.Sub(b.looked) >= pressureLook {
		percent, err := b.pressure()
		b.looked, b.high = now, err == nil && percent > b.most
	}
	if !b.high {
		return 0
	}
	return pressureLook - now.Sub(b.looked)
}

// charge counts bytes that begin.
func (b *brake) charge(bytes int64) {
	if b == nil || b.rate == 0 {
		return
	}
	if least := time.Now().Add(-brakeSlack); b.paid.Before(least) {
		b.paid = least
	}
	b.paid = b.paid.Add(b.price(bytes))
}

// refund takes back a part of what was charged.
func (b *brake) refund(bytes int64) {
	if b == nil || b.rate == 0 {
		return
	}
	b.paid = b.paid.Add(-b.price(bytes))
}

func (b *brake) price(bytes int64) time.Duration {
	return time.Duration(min(float64(bytes)/float64(b.rate)*float64(time.Second), math.MaxInt64/4))
}

// IOPressure returns the percent of the last ten seconds in which some task of the node stalled on IO. The error is os.ErrNotExist
// where the kernel does not account for it. A task that reads a lazy layer and waits for the network stalls too, as the kernel sees it.
func IOPressure() (percent float64, err error) {
	b, err := os.ReadFile(pressureFile)
	if err != nil {
		return 0, err
	}
	return parsePressure(string(b))
}

func parsePressure(text string) (percent float64, err error) {
	if _, err := fmt.Sscanf(text, "some avg10=%f", &percent); err != nil {
		return 0, fmt.Errorf("read %s: %q: %w", pressureFile, text, err)
	}
	return percent, nil
}
