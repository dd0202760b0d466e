package limit

import (
	"net/netip"
	"time"
)

// Direction is which way bytes go.
type Direction uint8

// The directions.
const (
	In  Direction = iota // from the client
	Out                  // to the client
)

// Ticket is a connection that is counted until Done. It belongs to the connection
// and must not be copied once it is used, but may be handed on; its methods are for one goroutine at a
// time, but Took may be called by two at once. The zero Ticket, which a refusal
// comes with, counts nowhere.
type Ticket struct {
	guard    *Guard
	listener *gate  // nil when the rules do not name it
	source   *entry // nil when exempt
	pair     *entry // while a claim is neither confirmed nor withdrawn; nil when exempt
	user     *entry // since the login; nil without a name, or room for it
	from     key    // of the source, also in overflow
	name     key    // of the user
	named    bool
	loggedIn bool
}

// Accept admits a connection that addr made to a listener, or says why it is
// refused. The caller waits before it serves the connection.
func (g *Guard) Accept(now time.Time, listener string, addr netip.Addr) (t Ticket, wait time.Duration, refusal Reason) {
	c := g.rules.Load()
	l := c.listeners[listener]
	t = Ticket{guard: g, listener: l.gate}
	wait, refusal = t.enter(c, g.at(now), addr, &l.access)
	if refusal != ReasonNone {
		return Ticket{}, 0, refusal
	}
	further, refusal := admit(now, l.gate, g.global)
	if refusal != ReasonNone {
		t.giveBack()
		return Ticket{}, 0, refusal
	}
	return t, max(wait, further), ReasonNone
}

// AcceptProxy admits a connection that a trusted proxy made to a listener, as Accept
// does. A proxy is no client: the access lists do not concern it, and it is no source.
// [Ticket.Behind] says whose connection it is.
func (g *Guard) AcceptProxy(now time.Time, listener string) (t Ticket, wait time.Duration, refusal Reason) {
	l := g.rules.Load().listeners[listener]
	if wait, refusal = admit(now, l.gate, g.global); refusal != ReasonNone {
		return Ticket{}, 0, refusal
	}
	return Ticket{guard: g, listener: l.gate}, wait, ReasonNone
}

// Denied tells whether the access lists refuse addr, and counts nothing: for who has
// not shown yet that the address is its own.
func (g *Guard) Denied(listener string, addr netip.Addr) bool {
	c := g.rules.Load()
	l := c.listeners[listener]
	return c.denies(addr.Unmap().WithZone(""), &l.access)
}

// Stay admits a connection that Accept has admitted before, and that has no Ticket any more.
// It takes no turn, since the connection is no new one.
func (g *Guard) Stay(now time.Time, listener string, addr netip.Addr) (t Ticket, refusal Reason) {
	c := g.rules.Load()
	l := c.listeners[listener]
	t = Ticket{guard: g, listener: l.gate}
	if refusal = t.stay(c, g.at(now), addr.Unmap().WithZone(""), &l.access); refusal != ReasonNone {
		return Ticket{}, refusal
	}
	if refusal = readmit(l.gate, g.global); refusal != ReasonNone {
		t.leaveSource()
		return Ticket{}, refusal
	}
	return t, ReasonNone
}

// stay counts the connection as one of its source.
func (t *Ticket) stay(c *compiled, at int64, addr netip.Addr, listener *access) Reason {
	if c.denies(addr, listener) {
		return ReasonDenied
	}
	if c.exempt.contains(addr) {
		return ReasonNone
	}
	k, bits := c.source(addr)
	p, hash := t.guard.sources.lock(k)
	defer p.mu.Unlock()
	e := p.get(at, k, hash, bits)
	if r := p.full(e); r != ReasonNone {
		return r
	}
	p.hold(e, 1, 1)
	t.source, t.from = e, k
	return ReasonNone
}

// Behind says that a connection comes from addr, as a trusted proxy has told. It
// is admitted anew, in the access lists and as one of its source. A refused
// ticket belongs to no source. It must be called before Identified.
func (t *Ticket) Behind(now time.Time, addr netip.Addr) (wait time.Duration, refusal Reason) {
	if t.guard == nil || t.named || t.loggedIn {
		return 0, ReasonNone
	}
	t.leaveSource()
	c := t.guard.rules.Load()
	var l compiledListener
	if t.listener != nil {
		l = c.listeners[t.listener.name]
	}
	return t.enter(c, t.guard.at(now), addr, &l.access)
}

// enter counts the connection as one of its source.
func (t *Ticket) enter(c *compiled, at int64, addr netip.Addr, listener *access) (time.Duration, Reason) {
	addr = addr.Unmap().WithZone("")
	if c.denies(addr, listener) {
		return 0, ReasonDenied
	}
	if c.exempt.contains(addr) {
		return 0, ReasonNone
	}
	k, bits := c.source(addr)
	p, hash := t.guard.sources.lock(k)
	defer p.mu.Unlock()
	e := p.get(at, k, hash, bits)
	if r := p.full(e); r != ReasonNone {
		return 0, r
	}
	if p.bounds.turns.peek(e.turn, at) > p.bounds.turns.maxWait {
		if e.overflowing() {
			return 0, ReasonOverflowSource
		}
		return 0, ReasonRateSource
	}
	wait := p.bounds.turns.take(&e.turn, at, 1)
	p.hold(e, 1, 1)
	t.source, t.from = e, k
	return time.Duration(wait), ReasonNone
}

// giveBack undoes enter.
func (t *Ticket) giveBack() {
	if t.source == nil {
		return
	}
	p := t.guard.sources.of(t.source)
	defer p.mu.Unlock()
	p.bounds.turns.give(&t.source.turn)
	p.release(t.source, 1, 1)
	t.source = nil
}

func (t *Ticket) leaveSource() {
	if t.source == nil {
		return
	}
	p := t.guard.sources.of(t.source)
	defer p.mu.Unlock()
	p.release(t.source, 1, t.unauthenticated())
	t.source = nil
}

// unauthenticated returns what the connection counts as one that is not logged in.
func (t *Ticket) unauthenticated() int32 {
	if t.loggedIn {
		return 0
	}
	return 1
}

// Identified says which user a connection claims to be, by a canonical name, before
// a node is asked; a further claim replaces the one before. The caller waits before
// it asks. A refused claim is not asked about.
func (t *Ticket) Identified(now time.Time, user string) (wait time.Duration, refusal Reason) {
	if t.guard == nil || t.loggedIn {
		return 0, ReasonNone
	}
	t.withdraw()
	t.named = false
	c, at, name := t.guard.rules.Load(), t.guard.at(now), t.guard.user(user)
	ofUser, refusal := t.guard.inquire(c, at, name)
	if refusal != ReasonNone {
		return 0, refusal
	}
	ofSource, refusal := t.sourceDelay(c, at)
	if refusal != ReasonNone {
		return 0, refusal
	}
	ofPair, refusal := t.claim(c, at, name)
	if refusal != ReasonNone {
		return 0, refusal
	}
	t.name, t.named = name, true
	return time.Duration(max(ofUser, ofSource, ofPair)), ReasonNone
}

// inquire returns how long a login of a user must wait, without a trace: what is
// claimed takes nothing from the user.
func (g *Guard) inquire(c *compiled, at int64, name key) (wait int64, refusal Reason) {
	p, hash := g.users.lock(name)
	defer p.mu.Unlock()
	e := p.find(name, hash)
	if e == nil {
		if int(p.used) < p.most {
			return 0, ReasonNone
		}
		return c.backoff.delay(&p.overflow, at, c.backoff.User), ReasonNone
	}
	if e.live >= p.bounds.concurrent {
		return 0, ReasonConcurrentUser
	}
	wait = p.bounds.turns.peek(e.turn, at)
	if wait > p.bounds.turns.maxWait {
		return 0, ReasonRateUser
	}
	return max(wait, c.backoff.delay(e, at, c.backoff.User)), ReasonNone
}

// sourceDelay returns how long a login must wait for the failures of its source.
func (t *Ticket) sourceDelay(c *compiled, at int64) (wait int64, refusal Reason) {
	if t.source == nil {
		return 0, ReasonNone
	}
	p := t.guard.sources.of(t.source)
	defer p.mu.Unlock()
	wait = c.backoff.delay(t.source, at, c.backoff.Source)
	if wait > int64(c.backoff.MaxWait) {
		return 0, ReasonAuthBackoffSource
	}
	return wait, ReasonNone
}

// claim counts a claim of a user from a source, and returns how long its login
// must wait for the failures of others.
func (t *Ticket) claim(c *compiled, at int64, name key) (wait int64, refusal Reason) {
	if t.source == nil {
		return 0, ReasonNone
	}
	k := t.guard.pair(name, t.from)
	p, hash := t.guard.pairs.lock(k)
	defer p.mu.Unlock()
	e := p.get(at, k, hash, 0)
	wait = c.backoff.delay(e, at, c.backoff.Pair)
	switch {
	case e.unauth >= p.bounds.unauth && !e.overflowing():
		return 0, ReasonUnauthenticatedUser
	case wait > int64(c.backoff.MaxWait) || c.backoff.alone(e, at):
		return 0, ReasonAuthBackoff
	}
	p.hold(e, 0, 1)
	t.pair = e
	return wait, ReasonNone
}

// withdraw counts the claim no more.
func (t *Ticket) withdraw() {
	if t.pair == nil {
		return
	}
	p := t.guard.pairs.of(t.pair)
	defer p.mu.Unlock()
	p.release(t.pair, 0, 1)
	t.pair = nil
}

// AuthFailed says that a node has refused the login of the user that was identified
// last. The claim is over: the next attempt is identified again.
func (t *Ticket) AuthFailed(now time.Time) {
	if t.guard == nil || !t.named || t.loggedIn {
		return
	}
	at := t.guard.at(now)
	if t.source != nil {
		t.guard.sources.fail(t.source, at)
	}
	if t.pair != nil {
		t.guard.pairs.fail(t.pair, at)
	}
	p, hash := t.guard.users.lock(t.name)
	p.get(at, t.name, hash, 0).fail(at, p.bounds.window)
	p.mu.Unlock()
	t.withdraw()
	t.named = false
}

// fail counts a failure of an entry that has connections.
func (t *table) fail(e *entry, at int64) {
	p := t.of(e)
	defer p.mu.Unlock()
	e.fail(at, p.bounds.window)
}

// LoggedIn says that a node has accepted the login, or that none is needed; then,
// without Identified before, the connection counts for no user. It is refused when
// others of the user were faster and nothing is left.
func (t *Ticket) LoggedIn(now time.Time) (refusal Reason) {
	if t.guard == nil || t.loggedIn {
		return ReasonNone
	}
	if t.named {
		if r := t.join(t.guard.at(now)); r != ReasonNone {
			return r
		}
	}
	if t.source != nil {
		p := t.guard.sources.of(t.source)
		p.release(t.source, 0, 1)
		p.mu.Unlock()
	}
	if t.listener != nil {
		t.listener.authenticated()
	}
	t.guard.global.authenticated()
	t.loggedIn = true
	return ReasonNone
}

// join makes the connection one of its user.
func (t *Ticket) join(at int64) Reason {
	t.forgive()
	t.withdraw()
	p, hash := t.guard.users.lock(t.name)
	defer p.mu.Unlock()
	e := p.get(at, t.name, hash, 0)
	if e.overflowing() {
		return ReasonNone // a table full of connected users: none of them is turned away
	}
	e.failures = 0
	if e.live >= p.bounds.concurrent {
		return ReasonConcurrentUser
	}
	p.bounds.turns.take(&e.turn, at, 1)
	p.hold(e, 1, 0)
	t.user = e
	return ReasonNone
}

// forgive clears the failures of the user at the source.
func (t *Ticket) forgive() {
	if t.pair == nil || t.pair.overflowing() {
		return
	}
	p := t.guard.pairs.of(t.pair)
	defer p.mu.Unlock()
	t.pair.failures = 0
}

// Took says that n bytes went in a direction, and returns how long the caller must
// pause before it reads more of that direction. The limits are shared by all
// connections of each scope.
func (t *Ticket) Took(now time.Time, dir Direction, n int) (pause time.Duration) {
	if t.guard == nil || n <= 0 || !t.guard.rules.Load().metered {
		return 0
	}
	at := t.guard.at(now)
	wait := t.guard.global.took(at, dir, n)
	if t.listener != nil {
		wait = max(wait, t.listener.took(at, dir, n))
	}
	if t.source != nil {
		wait = max(wait, t.guard.sources.took(t.source, at, dir, n))
	}
	if t.user != nil {
		wait = max(wait, t.guard.users.took(t.user, at, dir, n))
	}
	return time.Duration(wait)
}

// Rest says that the session of the user is over, or that the claim has come to nothing, and that the
// connection stays: it counts for no user any more, and otherwise as before.
func (t *Ticket) Rest() {
	if t.guard == nil {
		return
	}
	t.withdraw()
	t.named = false
	if t.user != nil {
		p := t.guard.users.of(t.user)
		p.release(t.user, 1, 0)
		p.mu.Unlock()
		t.user = nil
	}
}

// Done says that the connection is over. Further calls do nothing.
func (t *Ticket) Done() {
	if t.guard == nil {
		return
	}
	t.Rest()
	t.leaveSource()
	if t.listener != nil {
		t.listener.leave(t.loggedIn)
	}
	t.guard.global.leave(t.loggedIn)
	*t = Ticket{}
}
