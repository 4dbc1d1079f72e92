package layer

import (
	"context"
	"time"
)

const (
	// proofTurn is how many bytes are hashed before others get their turn at the core.
	proofTurn = 4 << 20
	// proofShare is how many bytes are hashed before another layer's proof gets its turn: about a second's worth, so that a large layer, or one
	// that is made to look like one, does not keep the small ones waiting.
	proofShare = 256 << 20

	// While ranges are fetched, whose decoding wants the cores, a turn waits for their end, for patience at first, and for leastPatience when
	// that has been in vain: then it is some 40 MB/s, which takes 3 % of a core.
	patience      = backgroundTrickle
	leastPatience = 100 * time.Millisecond
)

// spend counts bytes that are hashed, or what takes as long, and lets others have the core now and again.
func (p *prover) spend(n int) error {
	switch {
	case p.share > proofShare:
		p.release()
		if err := p.hold(); err != nil {
			return err
		}
	case p.hashed > proofTurn:
		p.leave()
		if err := p.enter(); err != nil {
			return err
		}
	}
	p.hashed += n
	p.share += n
	return nil
}

// hold waits until this is the proof that hashes. They take turns: who has waited longest is next.
func (p *prover) hold() error {
	select {
	case p.scheduler.proofs <- struct{}{}:
		p.holds, p.share = true, 0
		return p.enter()
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// release lets others hash, as long as this one waits for its registry or has had its share, or for good.
func (p *prover) release() {
	p.leave()
	p.data.forget()
	if p.holds {
		<-p.scheduler.proofs
		p.holds = false
	}
}

// enter waits for a core, and, but not for ever, until nothing is fetched.
func (p *prover) enter() error {
	if calm := p.scheduler.ranges.whenCalm(nobody); calm != nil {
		enough := time.NewTimer(p.patience)
		defer enough.Stop()
		select {
		case <-calm:
			p.patience = patience
		case <-enough.C:
			p.patience = max(p.patience/2, leastPatience)
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
	turn := &entrant{priority: Background, image: p.ref}
	if err := p.scheduler.cores.enter(p.ctx, turn); err != nil {
		return err
	}
	p.turn, p.hashed = turn, 0
	return nil
}

func (p *prover) leave() {
	if p.turn != nil {
		p.scheduler.cores.leave(p.turn)
		p.turn = nil
	}
}
