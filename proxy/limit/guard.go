package limit

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Guard holds clients to the rules. Its methods are safe for concurrent use; times
// that are a little out of order do no harm.
type Guard struct {
	epoch   time.Time
	names   [2]maphash.Seed // of users' keys
	sources *table
	users   *table
	pairs   *table // claims: users by source
	global  *gate
	rules   atomic.Pointer[compiled]

	configuring sync.Mutex
	listeners   map[string]*gate // those configured, and removed ones that have connections
}

// compiled are rules, ready to be used. They never change.
type compiled struct {
	bits4, bits6 int
	exempt       prefixes
	access       access
	listeners    map[string]compiledListener
	backoff      Backoff
	metered      bool // any limit on bytes
}

type compiledListener struct {
	gate   *gate
	access access
}

// New returns a Guard. Buckets begin full.
func New(now time.Time, rules Rules) (*Guard, error) {
	r, err := rules.normalize()
	if err != nil {
		return nil, err
	}
	g := &Guard{
		epoch:     now,
		names:     [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		sources:   newTable(r.MaxEntries),
		users:     newTable(r.MaxEntries),
		pairs:     newTable(r.MaxEntries),
		global:    newGlobal(),
		listeners: make(map[string]*gate),
	}
	g.use(now, r)
	return g, nil
}

// Configure replaces the rules, or returns an error and keeps them. What is
// counted stays, also of a listener that is removed and comes back; connections
// keep counting for the source that they were admitted for, also when sources have
// prefixes of another length now. Buckets keep their tokens, as far as the new
// burst has room for them, and a new limit begins with full ones. It takes time in
// proportion to the number of entries, during which others wait for a part of that
// at most.
func (g *Guard) Configure(now time.Time, rules Rules) error {
	r, err := rules.normalize()
	if err != nil {
		return err
	}
	g.use(now, r)
	return nil
}

// use puts normalized rules into force.
func (g *Guard) use(now time.Time, r Rules) {
	g.configuring.Lock()
	defer g.configuring.Unlock()
	at, b := g.at(now), r.Backoff
	g.global.configure(now, at, r.Global)
	g.sources.configure(at, r.Source.bounds(b.Window, b.Source.Free), r.MaxEntries)
	g.users.configure(at, r.User.bounds(b.Window, math.MaxInt), r.MaxEntries)
	g.pairs.configure(at, Scope{Unauthenticated: r.User.Unauthenticated}.bounds(b.Window, b.Pair.Free), r.MaxEntries)
	g.rules.Store(&compiled{
		bits4:     r.IPv4Bits,
		bits6:     r.IPv6Bits,
		exempt:    newPrefixes(r.Exempt),
		access:    r.Access.ready(),
		listeners: g.useListeners(now, r.Listeners),
		backoff:   r.Backoff,
		metered:   r.metered(),
	})
}

func (g *Guard) useListeners(now time.Time, rules map[string]Listener) map[string]compiledListener {
	for name, l := range g.listeners {
		if _, ok := rules[name]; !ok {
			l.configure(now, g.at(now), Scope{})
			if l.unused() {
				delete(g.listeners, name)
			}
		}
	}
	ready := make(map[string]compiledListener, len(rules))
	for name, l := range rules {
		if g.listeners[name] == nil {
			g.listeners[name] = newListener(name)
		}
		g.listeners[name].configure(now, g.at(now), l.Scope)
		ready[name] = compiledListener{g.listeners[name], l.Access.ready()}
	}
	return ready
}

// metered tells whether there is any limit on bytes.
func (r Rules) metered() bool {
	metered := r.Source.metered() || r.User.metered() || r.Global.metered()
	for _, l := range r.Listeners {
		metered = metered || l.metered()
	}
	return metered
}

func (s Scope) metered() bool { return s.In.PerSecond > 0 || s.Out.PerSecond > 0 }

// at returns the time as buckets have it.
func (g *Guard) at(now time.Time) int64 { return int64(now.Sub(g.epoch)) }

// user returns the key of a user. It is of 128 bits that clients cannot know, so
// nobody finds another name with the same.
func (g *Guard) user(name string) key {
	return join(maphash.String(g.names[0], name), maphash.String(g.names[1], name))
}

// pair returns the key of a user's claims from a source.
func (g *Guard) pair(user, source key) key {
	var both [2 * len(user)]byte
	copy(both[:], user[:])
	copy(both[len(user):], source[:])
	return join(maphash.Bytes(g.names[0], both[:]), maphash.Bytes(g.names[1], both[:]))
}

func join(a, b uint64) (k key) {
	for i := range 8 {
		k[i], k[8+i] = byte(a>>(8*i)), byte(b>>(8*i)) //nolint:gosec // Byte by byte.
	}
	return k
}

// denies tells whether the access lists refuse an address, the listener's or those of
// all.
func (c *compiled) denies(addr netip.Addr, listener *access) bool {
	return c.access.denies(addr) || listener.denies(addr)
}

// source returns the key of the source that an address belongs to, and how many
// bits of the address that is.
func (c *compiled) source(addr netip.Addr) (key, int) {
	bits := c.bits6
	if addr.Is4() {
		bits = c.bits4
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return key{}, 0 // no address: all of them are one source
	}
	return key(p.Addr().As16()), bits
}

// prefix returns the source of a key.
func (e *entry) prefix() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16(e.key).Unmap(), int(e.bits))
}

// Busy tells whether the next connection of addr to a listener would have to wait for
// its turn, or be refused, once further ones are admitted that are coming: a time to
// ask more of who wants to connect.
func (g *Guard) Busy(now time.Time, listener string, addr netip.Addr, coming int) bool {
	c := g.rules.Load()
	l := c.listeners[listener].gate
	return g.global.busy(now, coming) || l != nil && l.busy(now, coming) ||
		g.sourceBusy(c, g.at(now), addr.Unmap().WithZone(""), coming)
}

// sourceBusy leaves no trace: the address may be forged.
func (g *Guard) sourceBusy(c *compiled, at int64, addr netip.Addr, coming int) bool {
	if c.exempt.contains(addr) {
		return false
	}
	k, _ := c.source(addr)
	p, hash := g.sources.lock(k)
	defer p.mu.Unlock()
	e := p.find(k, hash)
	switch {
	case e == nil && int(p.used) >= p.most:
		e = &p.overflow
	case e == nil:
		e = new(entry)
	}
	turn := e.turn
	return int(e.live)+coming >= int(p.bounds.concurrent) || int(e.unauth)+coming >= int(p.bounds.unauth) ||
		p.bounds.turns.take(&turn, at, coming+1) > 0
}

// Metered tells whether any limit is on bytes, so that [Ticket.Took] matters.
func (g *Guard) Metered() bool { return g.rules.Load().metered }
