package balancer

import "fmt"

// Cause says why a session is placed where it is.
type Cause uint8

// The values of Cause.
const (
	// Owned: the node owns the user's partition.
	Owned Cause = iota + 1
	// Joined: the user has live sessions there.
	Joined
	// Overflowed: nodes that rank higher are at their bound or limit, or start
	// slowly.
	Overflowed
	// Retried: the owner has failed to take the session.
	Retried
	// Spilled: no node of the own zone, or none but backup nodes, can take it.
	Spilled
	// Chosen: it came first by load or turn, under a policy by which partitions
	// have no owners.
	Chosen
	// Shared: another front says that the user has live sessions there.
	Shared
)

// String returns the word for logs and metrics.
func (c Cause) String() string {
	switch c {
	case Owned:
		return "owned"
	case Joined:
		return "joined"
	case Overflowed:
		return "overflowed"
	case Retried:
		return "retried"
	case Spilled:
		return "spilled"
	case Chosen:
		return "chosen"
	case Shared:
		return "shared"
	default:
		return fmt.Sprintf("Cause(%d)", uint8(c))
	}
}

// Reason says why a session was refused.
type Reason uint8

// The values of Reason. Where nodes differ, the greatest of the first four counts.
const (
	// NoMembers: there are no nodes.
	NoMembers Reason = iota + 1
	// NoneUp: all nodes are down, draining, or without weight.
	NoneUp
	// NoneLeft: all that could take it have been tried.
	NoneLeft
	// AllFull: those that could take it have reached their limits.
	AllFull
	// QueueFull: waiting would have helped, but too many wait already.
	QueueFull
	// ParkDeadline: it has waited until the deadline of its context.
	ParkDeadline
	// Abandoned: it was waiting when its context was canceled.
	Abandoned
)

// Waits says whether the session may be placed later without the caller doing
// anything, when sessions end or nodes come. Those that have been tried already,
// the caller has to forget first.
func (r Reason) Waits() bool { return r == NoMembers || r == NoneUp || r == AllFull }

// String returns the word for logs and metrics.
func (r Reason) String() string {
	switch r {
	case NoMembers:
		return "no-members"
	case NoneUp:
		return "none-up"
	case NoneLeft:
		return "none-left"
	case AllFull:
		return "all-full"
	case QueueFull:
		return "queue-full"
	case ParkDeadline:
		return "park-deadline"
	case Abandoned:
		return "abandoned"
	default:
		return fmt.Sprintf("Reason(%d)", uint8(r))
	}
}

// Refusal is the error of [Balancer.Acquire] and [Balancer.AcquireWait]: no node
// can take the session.
type Refusal struct {
	User   string
	Reason Reason
	// Lack is what there was to wait for, when Reason is QueueFull, ParkDeadline or
	// Abandoned; else it is the same as Reason.
	Lack Reason

	cause error // of the context's end
}

// Error implements error. It does not name the user.
func (r *Refusal) Error() string {
	if r.Lack != r.Reason {
		return fmt.Sprintf("no node can take the session: %v, %v", r.Lack, r.Reason)
	}
	return fmt.Sprintf("no node can take the session: %v", r.Reason)
}

// Unwrap returns why the context ended, if it did.
func (r *Refusal) Unwrap() error { return r.cause }
