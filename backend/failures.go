package backend

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Backoff makes logins wait after others have failed, each one longer than the one
// before. It holds up who guesses passwords from where they do, so that strangers
// cannot keep a user out. The front's own counts what passes through it; this one also
// counts what comes to the node through other fronts. Without First there is none.
type Backoff struct {
	Free       int           // failures of a user from one source that have no consequence
	SourceFree int           // failures of all users from one source that have none
	First      time.Duration // the wait after the next one; it doubles with each further one
	Max        time.Duration // the longest wait
	Window     time.Duration // after which without a further failure all are forgotten
}

// after returns the wait after n failures of which free have no consequence.
func (b Backoff) after(n, free int) time.Duration {
	doubled := n - free - 1
	if doubled < 0 {
		return 0
	}
	if doubled >= 63 || b.First > b.Max>>doubled {
		return b.Max
	}
	return b.First << doubled
}

// maxFailing is how many users and sources are remembered at most. Those that have not
// failed for the longest time make room.
const maxFailing = 32_768

// failures remembers who has failed to log in. It is told the time, and is safe for
// concurrent use. A nil one remembers nothing.
type failures struct {
	rules Backoff
	seed  maphash.Seed
	most  int // in each generation

	mu    sync.Mutex
	young map[failing]failed // those that came last
	old   map[failing]failed // those before; what fails again becomes young
}

// failing is a source, or a user from a source. Names are hashed, so that long ones
// take no room.
type failing struct {
	user   uint64 // 0: all users
	source netip.Prefix
}

type failed struct {
	times int
	last  time.Time
}

func newFailures(b Backoff) *failures {
	if b.First <= 0 {
		return nil
	}
	return &failures{rules: b, seed: maphash.MakeSeed(), most: maxFailing / 2, young: make(map[failing]failed)}
}

func (f *failures) pair(user string, source netip.Prefix) failing {
	return failing{maphash.String(f.seed, user) | 1, source}
}

// wait returns how long a login has to wait. An empty user is one that is not known yet.
func (f *failures) wait(now time.Time, user string, source netip.Prefix) time.Duration {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	wait := f.left(now, failing{source: source}, f.rules.SourceFree)
	if user != "" {
		wait = max(wait, f.left(now, f.pair(user, source), f.rules.Free))
	}
	return wait
}

func (f *failures) left(now time.Time, key failing, free int) time.Duration {
	e := f.recall(now, key)
	return max(0, e.last.Add(f.rules.after(e.times, free)).Sub(now))
}

// recall returns what is not forgotten of a key.
func (f *failures) recall(now time.Time, key failing) failed {
	e, ok := f.young[key]
	if !ok {
		e = f.old[key]
	}
	if now.Sub(e.last) >= f.rules.Window {
		return failed{}
	}
	return e
}

// fail counts a failure of a user, who may be unknown, from a source, which may be
// invalid: then it is one that cannot be told from others.
func (f *failures) fail(now time.Time, user string, source netip.Prefix) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if source.IsValid() {
		f.count(now, failing{source: source})
	}
	if user != "" {
		f.count(now, f.pair(user, source))
	}
}

func (f *failures) count(now time.Time, key failing) {
	e := f.recall(now, key)
	e.times, e.last = e.times+1, now
	if _, ok := f.young[key]; !ok && len(f.young) >= f.most {
		f.old, f.young = f.young, make(map[failing]failed)
	}
	f.young[key] = e
}

// forget is for a user who has logged in. What the source has tried with other names
// stays.
func (f *failures) forget(user string, source netip.Prefix) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := f.pair(user, source)
	delete(f.young, key)
	delete(f.old, key)
}

// sourceOf returns the network that is taken for one client: an address of IPv4, or the
// 64 bits of IPv6 that a customer is given.
func sourceOf(address string) netip.Prefix {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip := addr.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(ip, bits).Masked()
}
