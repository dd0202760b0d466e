package limit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// gate counts for a listener, or for all of them. There are few, so its bucket of
// connections is a rate.Limiter, which keeps its tokens when the rate changes.
type gate struct {
	name    string // of the listener
	reasons reasons
	metered atomic.Bool // there are limits on bytes

	mu     sync.Mutex
	scope  Scope
	turns  *rate.Limiter // nil without a limit
	latest time.Time     // that turns has seen
	bytes  [2]bucket     // by Direction
	meters [2]int64      // their turns
	live   int
	unauth int // of live
}

// reasons are what a scope's refusals are called.
type reasons struct {
	rate, concurrent, unauthenticated Reason
}

func newGlobal() *gate {
	return &gate{reasons: reasons{ReasonRateGlobal, ReasonConcurrentGlobal, ReasonUnauthenticatedGlobal}}
}

func newListener(name string) *gate {
	return &gate{name: name, reasons: reasons{ReasonRateListener, ReasonConcurrentListener, ReasonUnauthenticatedListener}}
}

// configure puts limits into force. What is counted stays.
func (g *gate) configure(now time.Time, at int64, s Scope) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case s.Rate.PerSecond == 0:
		g.turns = nil
	case g.turns == nil:
		g.turns = rate.NewLimiter(rate.Limit(s.Rate.PerSecond), s.Rate.Burst)
	default:
		now = g.forward(now)
		g.turns.SetLimitAt(now, rate.Limit(s.Rate.PerSecond))
		g.turns.SetBurstAt(now, s.Rate.Burst)
	}
	for dir, b := range [2]bucket{In: s.In.bucket(), Out: s.Out.bucket()} {
		g.meters[dir] = g.bytes[dir].convert(g.meters[dir], at, b)
		g.bytes[dir] = b
	}
	g.metered.Store(g.bytes[In].limited() || g.bytes[Out].limited())
	g.scope = s
}

// admit lets a connection through both gates, or through none. The first may be
// nil.
func admit(now time.Time, listener, global *gate) (time.Duration, Reason) {
	if listener == nil {
		return global.admit(now)
	}
	listener.mu.Lock()
	defer listener.mu.Unlock()
	if r := listener.full(); r != ReasonNone {
		return 0, r
	}
	turn, wait, ok := listener.turn(now)
	if !ok {
		return 0, listener.reasons.rate
	}
	further, r := global.admit(now)
	if r != ReasonNone {
		turn.CancelAt(listener.latest)
		return 0, r
	}
	listener.enter()
	return max(wait, further), ReasonNone
}

// readmit lets a connection through both gates that takes no turn, or through none.
// The first may be nil.
func readmit(listener, global *gate) Reason {
	if listener != nil {
		listener.mu.Lock()
		defer listener.mu.Unlock()
		if r := listener.full(); r != ReasonNone {
			return r
		}
	}
	global.mu.Lock()
	defer global.mu.Unlock()
	if r := global.full(); r != ReasonNone {
		return r
	}
	if listener != nil {
		listener.enter()
	}
	global.enter()
	return ReasonNone
}

func (g *gate) admit(now time.Time) (time.Duration, Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.full(); r != ReasonNone {
		return 0, r
	}
	_, wait, ok := g.turn(now)
	if !ok {
		return 0, g.reasons.rate
	}
	g.enter()
	return wait, ReasonNone
}

// full returns why no further connection may be open.
func (g *gate) full() Reason {
	switch {
	case g.scope.Concurrent > 0 && g.live >= g.scope.Concurrent:
		return g.reasons.concurrent
	case g.scope.Unauthenticated > 0 && g.unauth >= g.scope.Unauthenticated:
		return g.reasons.unauthenticated
	}
	return ReasonNone
}

// turn takes the next turn, unless it is too far away.
func (g *gate) turn(now time.Time) (rate.Reservation, time.Duration, bool) {
	if g.turns == nil {
		return rate.Reservation{}, 0, true
	}
	now = g.forward(now)
	r := *g.turns.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait > g.scope.Rate.MaxWait {
		r.CancelAt(now)
		return r, 0, false
	}
	return r, wait, true
}

// busy tells whether there is no room, or no turn to be had at once, after those that
// are coming.
func (g *gate) busy(now time.Time, coming int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.scope.Concurrent > 0 && g.live+coming >= g.scope.Concurrent ||
		g.scope.Unauthenticated > 0 && g.unauth+coming >= g.scope.Unauthenticated ||
		g.turns != nil && g.turns.TokensAt(g.forward(now)) < float64(coming)+1
}

// forward returns the time, or the latest one that was seen. Event loops read the
// clock at different times, and a limiter would hand out again what it earned
// between two times whose order is reversed.
func (g *gate) forward(now time.Time) time.Time {
	if now.After(g.latest) {
		g.latest = now
	}
	return g.latest
}

func (g *gate) enter() {
	g.live++
	g.unauth++
}

// authenticated counts a connection as logged in.
func (g *gate) authenticated() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unauth--
}

// leave counts a connection no more.
func (g *gate) leave(loggedIn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live--
	if !loggedIn {
		g.unauth--
	}
}

// took takes bytes and returns how long the pause must be.
func (g *gate) took(at int64, dir Direction, n int) int64 {
	if !g.metered.Load() {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bytes[dir].take(&g.meters[dir], at, n)
}

// unused tells whether nothing is counted.
func (g *gate) unused() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.live == 0
}

func (g *gate) status(now time.Time) GateStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := GateStatus{Connections: g.live, Unauthenticated: g.unauth}
	if g.turns != nil {
		s.Waiting = int(math.Ceil(max(0, -g.turns.TokensAt(g.forward(now)))))
	}
	return s
}
