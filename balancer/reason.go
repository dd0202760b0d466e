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
	// Overflowed: nodes that rank higher are at their bound or limit.
	Overflowed
	// Retried: the owner has failed to take the session.
	Retried
	// Spilled: no node of the own zone, or none but backup nodes, can take it.
	Spilled
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
	default:
		return fmt.Sprintf("Cause(%d)", uint8(c))
	}
}

// Exception says whether the node is another than the table alone gives, so that
// other fronts do not know of it by themselves.
func (c Cause) Exception() bool { return c != Owned }

// Reason says why a session was refused. Where nodes differ, it is the greatest.
type Reason uint8

// The values of Reason, rising with the hope that waiting helps.
const (
	// NoMembers: there are no nodes.
	NoMembers Reason = iota + 1
	// NoneUp: all nodes are down, draining, or without weight.
	NoneUp
	// NoneLeft: all that could take it have been tried.
	NoneLeft
	// AllFull: those that could take it have reached their limits.
	AllFull
)

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
	default:
		return fmt.Sprintf("Reason(%d)", uint8(r))
	}
}

// Refusal is the error of [Balancer.Acquire]: no node can take the session.
type Refusal struct {
	User   string
	Reason Reason
}

// Error implements error. It does not name the user.
func (r *Refusal) Error() string { return "no node can take the session: " + r.Reason.String() }
