package limit_test

import (
	"fmt"
	"testing"
	"time"

	"imlb/proxy/limit"
)

// backoff is the rule of these tests.
func backoff() limit.Backoff {
	return limit.Backoff{
		Pair:    limit.Steps{Free: 3, First: time.Second, Max: 5 * time.Minute},
		Source:  limit.Steps{Free: 20, First: time.Second, Max: time.Minute},
		User:    limit.Steps{Free: 10, First: 100 * time.Millisecond, Max: 2 * time.Second},
		MaxWait: 10 * time.Second,
		Window:  15 * time.Minute,
	}
}

// try is one login that fails, unless it is refused.
func try(t *testing.T, g *limit.Guard, now time.Time, addr, user string) (time.Duration, limit.Reason) {
	t.Helper()
	ticket := admitted(t, g, now, "", addr)
	defer ticket.Done()
	wait, reason := ticket.Identified(now, user)
	if reason == limit.ReasonNone {
		ticket.AuthFailed(now)
	}
	return wait, reason
}

// ask tells how a login would fare, without an attempt.
func ask(t *testing.T, g *limit.Guard, now time.Time, addr, user string) (time.Duration, limit.Reason) {
	t.Helper()
	ticket := admitted(t, g, now, "", addr)
	defer ticket.Done()
	return ticket.Identified(now, user)
}

// The table of the package comment: who has failed how often, and how long the
// next login waits right after the last failure.
func TestBackoffTable(t *testing.T) {
	t.Parallel()
	const here, there = "192.0.2.1", "198.51.100.1"
	type failure struct {
		n          int
		addr, user string // with a %d, which differs for each failure
	}
	for _, tt := range []struct {
		name       string
		failures   failure
		addr, user string // of the login that is asked for
		wait       time.Duration
		want       limit.Reason
	}{
		{"pair, free", failure{3, here, "alice"}, here, "alice", 0, limit.ReasonNone},
		{"pair, first", failure{4, here, "alice"}, here, "alice", time.Second, limit.ReasonNone},
		{"pair, doubled", failure{6, here, "alice"}, here, "alice", 4 * time.Second, limit.ReasonNone},
		{"pair, too long", failure{8, here, "alice"}, here, "alice", 0, limit.ReasonAuthBackoff},
		{"pair, another user", failure{8, here, "alice"}, here, "bob", 0, limit.ReasonNone},
		{"pair, another source", failure{8, here, "alice"}, there, "alice", 0, limit.ReasonNone},
		{"source, free", failure{20, here, "user%d"}, here, "alice", 0, limit.ReasonNone},
		{"source, doubled", failure{22, here, "user%d"}, here, "alice", 2 * time.Second, limit.ReasonNone},
		{"source, too long", failure{25, here, "user%d"}, here, "alice", 0, limit.ReasonAuthBackoffSource},
		{"source, another source", failure{25, here, "user%d"}, there, "alice", 0, limit.ReasonNone},
		{"source, its neighbour", failure{25, "2001:db8::%d", "user%d"}, "2001:db8::ffff", "alice", 0, limit.ReasonAuthBackoffSource},
		{"user, free", failure{10, "10.0.0.%d", "alice"}, here, "alice", 0, limit.ReasonNone},
		{"user, doubled", failure{12, "10.0.0.%d", "alice"}, here, "alice", 200 * time.Millisecond, limit.ReasonNone},
		{"user, at most", failure{250, "10.0.0.%d", "alice"}, here, "alice", 2 * time.Second, limit.ReasonNone},
		{"user, another user", failure{250, "10.0.0.%d", "alice"}, here, "bob", 0, limit.ReasonNone},
		{"user, from an attacker's", failure{250, "10.0.0.%d", "alice"}, "10.0.0.1", "bob", 0, limit.ReasonNone},
		{"exempt, no pair, no source", failure{250, "172.16.0.1", "alice"}, "172.16.0.1", "alice", 2 * time.Second, limit.ReasonNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGuard(t, limit.Rules{Backoff: backoff(), Exempt: prefixes("172.16.0.0/12")})
			now := start()
			for i := range tt.failures.n {
				number := func(s string) string {
					if n := len(s); n > 2 && s[n-2:] == "%d" {
						return fmt.Sprintf(s, i)
					}
					return s
				}
				addr, user := number(tt.failures.addr), number(tt.failures.user)
				wait, reason := ask(t, g, now, addr, user)
				if reason != limit.ReasonNone {
					now, wait = now.Add(time.Minute), 0
				}
				now = now.Add(wait)
				if wait, reason := try(t, g, now, addr, user); wait != 0 || reason != limit.ReasonNone {
					t.Fatalf("failure %d: waits for %v, refused: %v", i, wait, reason)
				}
			}
			wait, reason := ask(t, g, now, tt.addr, tt.user)
			decided(t, "the next login", wait, reason, tt.wait, tt.want)
			wait, reason = ask(t, g, now.Add(15*time.Minute), tt.addr, tt.user)
			decided(t, "when all is forgotten", wait, reason, 0, limit.ReasonNone)
		})
	}
}

// A delay is over when it is over: its refusals do not make it longer.
func TestBackoffEnds(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{Backoff: backoff()})
	now := start()
	for i := range 30 {
		if _, reason := try(t, g, now, "192.0.2.1", "alice"); reason == limit.ReasonAuthBackoff {
			for range 100 {
				if _, reason := try(t, g, now, "192.0.2.1", "alice"); reason != limit.ReasonAuthBackoff {
					t.Fatalf("attempt %d: %v", i, reason)
				}
			}
			now = now.Add(5 * time.Minute)
			if wait, reason := try(t, g, now, "192.0.2.1", "alice"); wait != 0 || reason != limit.ReasonNone {
				t.Fatalf("attempt %d, later: waits for %v, refused: %v", i, wait, reason)
			}
		}
	}
}

// A success clears what the user has failed, here and in all, and not the source.
func TestBackoffSuccess(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{Backoff: backoff()})
	for i := range 200 {
		try(t, g, start(), fmt.Sprintf("10.0.0.%d", i), "alice")
	}
	for i := range 10 {
		try(t, g, start(), "192.0.2.1", fmt.Sprint("user", i))
	}
	for range 4 {
		try(t, g, start(), "192.0.2.1", "alice")
	}
	ticket := admitted(t, g, start(), "", "192.0.2.1")
	wait, reason := ticket.Identified(start(), "alice")
	decided(t, "before", wait, reason, 2*time.Second, limit.ReasonNone)
	now := start().Add(wait)
	decided(t, "login", 0, ticket.LoggedIn(now), 0, limit.ReasonNone)
	ticket.Done()
	wait, reason = ask(t, g, now, "192.0.2.1", "alice")
	decided(t, "after", wait, reason, 0, limit.ReasonNone)
	try(t, g, now, "192.0.2.1", "alice") // the first again, and the source's 15th
	wait, reason = ask(t, g, now, "192.0.2.1", "alice")
	decided(t, "after the next failure", wait, reason, 0, limit.ReasonNone)
	for i := range 6 {
		try(t, g, now, "192.0.2.1", fmt.Sprint("user", i))
	}
	wait, reason = ask(t, g, now, "192.0.2.1", "alice")
	decided(t, "after those of the source", wait, reason, time.Second, limit.ReasonNone)
}

// The attempt of a user that is refused may be followed by that of another, on the
// same connection.
func TestBackoffOneConnection(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{Backoff: backoff()})
	ticket := admitted(t, g, start(), "", "192.0.2.1")
	for i, want := range []time.Duration{0, 0, 0, 0, time.Second, 2 * time.Second} {
		wait, reason := ticket.Identified(start(), "alice")
		decided(t, fmt.Sprint("attempt ", i), wait, reason, want, limit.ReasonNone)
		ticket.AuthFailed(start())
		ticket.AuthFailed(start()) // one attempt fails once
	}
	wait, reason := ticket.Identified(start(), "bob")
	decided(t, "bob", wait, reason, 0, limit.ReasonNone)
	decided(t, "bob's login", 0, ticket.LoggedIn(start()), 0, limit.ReasonNone)
	ticket.AuthFailed(start()) // too late
	ticket.Done()
	wait, reason = ask(t, g, start(), "192.0.2.1", "bob")
	decided(t, "bob again", wait, reason, 0, limit.ReasonNone)
}

// Many connections at once get no more guesses than one after the other.
func TestBackoffInParallel(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{Backoff: backoff()})
	try(t, g, start(), "192.0.2.1", "alice")
	var guessing []*limit.Ticket
	for range 100 {
		ticket := admitted(t, g, start(), "", "192.0.2.1")
		if _, reason := ticket.Identified(start(), "alice"); reason == limit.ReasonNone {
			guessing = append(guessing, ticket)
		}
	}
	if len(guessing) != 3 {
		t.Errorf("%d guesses at a time, of 3", len(guessing))
	}
	for _, ticket := range guessing {
		ticket.AuthFailed(start())
		ticket.Done()
	}
	later, guesses := start().Add(time.Second), 0
	for range 100 {
		ticket := admitted(t, g, later, "", "192.0.2.1")
		if _, reason := ticket.Identified(later, "alice"); reason == limit.ReasonNone {
			guesses++
		}
	}
	if guesses != 1 {
		t.Errorf("%d guesses at a time, of 1", guesses)
	}
}

// Whatever attackers elsewhere do, a user is never refused, waits for no longer than
// User.Max, and who has the right password is in.
func TestNoLockOut(t *testing.T) {
	t.Parallel()
	g := newGuard(t, limit.Rules{
		Backoff: backoff(), User: limit.Scope{Concurrent: 3, Unauthenticated: 2, Rate: limit.Rate{PerSecond: 1, Burst: 2}},
		MaxEntries: 1000,
	})
	now := start()
	for hour := range 50 {
		for i := range 2000 {
			ticket := admitted(t, g, now, "", fmt.Sprintf("2001:db8:%x:%x::1", hour, i))
			if _, reason := ticket.Identified(now, "alice"); reason == limit.ReasonNone && i%2 == 0 {
				ticket.AuthFailed(now)
			}
			defer ticket.Done() // they also stay as long as they can
			now = now.Add(time.Millisecond)
		}
		ticket := admitted(t, g, now, "", "192.0.2.1")
		wait, reason := ticket.Identified(now, "alice")
		if reason != limit.ReasonNone || wait > 2*time.Second {
			t.Fatalf("hour %d: waits for %v, refused: %v", hour, wait, reason)
		}
		now = now.Add(wait)
		if reason := ticket.LoggedIn(now); reason != limit.ReasonNone {
			t.Fatalf("hour %d: refused: %v", hour, reason)
		}
		ticket.Done()
		now = now.Add(time.Hour)
	}
}
