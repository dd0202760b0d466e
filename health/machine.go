package health

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"time"
)

// Rules say how often nodes are checked and how many results decide.
type Rules struct {
	// Rise is how many successes in a row bring a node up; 2 when 0.
	Rise int
	// Fall is how many failures in a row take a node down; 2 when 0.
	Fall int
	// Interval lies between checks; 1 s when 0.
	Interval time.Duration
	// Fast lies between checks while a node's state is in doubt: before its first
	// result, and in a row that has not decided yet; a fifth of Interval when 0.
	Fast time.Duration
	// Timeout is how long one check may take; Interval when 0.
	Timeout time.Duration
	// Jitter is by what share of it, up or down, the time to the next check is left to
	// chance, so that checks do not fall into step; a tenth when 0, and nothing when
	// negative.
	Jitter float64
}

func (r Rules) withDefaults() Rules {
	r.Rise = cmp.Or(r.Rise, 2)
	r.Fall = cmp.Or(r.Fall, 2)
	r.Interval = cmp.Or(r.Interval, time.Second)
	r.Fast = cmp.Or(r.Fast, r.Interval/5)
	r.Timeout = cmp.Or(r.Timeout, r.Interval)
	r.Jitter = min(cmp.Or(r.Jitter, 0.1), 1)
	return r
}

// jittered returns when to check after wait; the first time anywhere in its second
// half, so that nodes that came together are not checked together.
func (r Rules) jittered(wait time.Duration, first bool) time.Duration {
	switch {
	case r.Jitter < 0:
		return wait
	case first:
		return wait/2 + rand.N(wait/2+1) //nolint:gosec // spreads load, guards nothing
	default:
		span := time.Duration(float64(wait) * r.Jitter)
		return wait - span + rand.N(2*span+1) //nolint:gosec // spreads load, guards nothing
	}
}

// spread returns when to check one of n nodes that all are due now: a few at once,
// many over as many milliseconds, up to Interval.
func (r Rules) spread(n int) time.Duration {
	if n <= 16 {
		return 0
	}
	return rand.N(min(time.Duration(n)*time.Millisecond, r.Interval)) //nolint:gosec // spreads load, guards nothing
}

// State is what our own checks found of a node.
type State uint8

// The values of State.
const (
	// Unknown: no result yet.
	Unknown State = iota
	// Up: fit.
	Up
	// Down: not fit.
	Down
)

// String returns the word for logs and pages.
func (s State) String() string {
	switch s {
	case Unknown:
		return "unknown"
	case Up:
		return "up"
	case Down:
		return "down"
	default:
		return fmt.Sprintf("State(%d)", uint8(s))
	}
}

// Outcome is what the data path met at a node.
type Outcome uint8

// The values of Outcome.
const (
	// Served: the node took the session.
	Served Outcome = iota + 1
	// DialFailed: no connection could be made.
	DialFailed
	// Lost: the connection of a session that the node had taken broke. Clients can bring
	// that about, each for its own session, so it is a reason to check the node and speaks
	// against it only together with a check that fails.
	Lost
)

// String returns the word for logs and pages.
func (o Outcome) String() string {
	switch o {
	case Served:
		return "served"
	case DialFailed:
		return "dial failed"
	case Lost:
		return "lost"
	default:
		return fmt.Sprintf("Outcome(%d)", uint8(o))
	}
}

// machine decides whether a node is up. It is pure: time is an argument.
type machine struct {
	rules Rules // with defaults

	state State
	since time.Time // of state
	cause string    // of state
	row   int       // results in a row that speak against state
	lost  int       // sessions that were lost since the last check
}

// checked takes the result of a check. One that fails says that the sessions which were
// lost before it were the node's doing, as when it has died.
func (m *machine) checked(now time.Time, err error) {
	lost := m.lost
	m.lost = 0
	if err != nil {
		if m.state == Up {
			m.row += lost
		}
		m.bad(now, "check failed: "+err.Error())
		return
	}
	m.good(now, "check passed")
}

// reported takes what the data path met. A node that is down or unknown comes up by
// checks only.
func (m *machine) reported(now time.Time, o Outcome) {
	switch {
	case o == DialFailed:
		m.bad(now, o.String())
	case m.state != Up:
	case o == Lost:
		m.lost = min(m.lost+1, m.rules.Fall)
	default:
		m.row = 0
	}
}

func (m *machine) good(now time.Time, cause string) {
	m.result(now, Up, m.rules.Rise, cause)
}

func (m *machine) bad(now time.Time, cause string) {
	m.result(now, Down, m.rules.Fall, cause)
}

// result counts a result that speaks for a state; needed in a row make it so. The
// first of all decides at once.
func (m *machine) result(now time.Time, state State, needed int, cause string) {
	if m.state == state {
		m.row = 0
		return
	}
	m.row++
	if m.state == Unknown || m.row >= needed {
		m.state, m.since, m.cause, m.row = state, now, cause, 0
	}
}

// wait returns how long to wait for the next check.
func (m *machine) wait() time.Duration {
	if m.state == Unknown || m.row > 0 {
		return m.rules.Fast
	}
	return m.rules.Interval
}
