package layer

import "context"

// Priority says who waits for bytes. A higher one goes first.
type Priority int

const (
	Background Priority = iota // nobody yet
	Prefetch                   // a container that is about to start
	Demand                     // a reader
)

const priorities = 3

// String returns the priority's name in metrics.
func (p Priority) String() string {
	switch p {
	case Demand:
		return "demand"
	case Prefetch:
		return "prefetch"
	default:
		return "background"
	}
}

type priorityKey struct{}

func withPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey{}, p)
}

// PriorityFrom returns the priority of the range that a Blob is asked for. Where ctx says nothing it is Demand: what
// is asked for outside of this package, a manifest, is waited for.
func PriorityFrom(ctx context.Context) Priority {
	if p, ok := ctx.Value(priorityKey{}).(Priority); ok {
		return p
	}
	return Demand
}

type urgencyKey struct{}

// urgency knows whether a reader waits for a range now, or is expected to.
type urgency interface{ urgent() bool }

// UrgencyFrom is PriorityFrom as it is now: once a reader waits for a range, or is expected to, that is Demand, whatever it was started with.
func UrgencyFrom(ctx context.Context) Priority {
	if u, ok := ctx.Value(urgencyKey{}).(urgency); ok && u.urgent() {
		return Demand
	}
	return PriorityFrom(ctx)
}
