package limit

import (
	"hash/maphash"
	"math"
	"sync"
	"time"
)

const (
	mostParts   = 64  // of a table
	partEntries = 256 // a table with fewer for each part has fewer parts
	chunkLen    = 32  // entries that are allocated together
	probes      = 8   // idle entries that a newcomer looks at
)

// key is a source's prefix, or a hash of a user's name: long names cost no memory.
type key [16]byte

// table counts for sources, users, or claims.
type table struct {
	seed  maphash.Seed
	parts []part // a power of two
}

// part is one of the parts of a table that do not wait for each other. Entries lie
// in chunks, so that they stay where they are while the part grows; they have no
// pointers, so that the garbage collector does not look at them. They are found
// by hash in chains that begin at heads.
type part struct {
	mu       sync.Mutex
	bounds   bounds
	most     int // entries
	used     int32
	chunks   []*[chunkLen]entry
	heads    []int32 // a power of two
	oldest   int32   // of the entries without connections, by when they lost the last
	newest   int32
	overflow entry // shared by all that find no room
	counters
}

// counters are what a part tells of its past.
type counters struct {
	recycled   uint64 // entries that carried nothing
	evicted    uint64 // entries that carried little
	overflowed uint64 // newcomers without room
}

// none is no entry.
const none = int32(-1)

// entry is the state of one source, user or claim. Its size is most of what an
// attacker can make the front keep: 80 bytes.
type entry struct {
	key      key
	turn     int64    // of the bucket of connections
	meters   [2]int64 // turns of the buckets of bytes, by Direction
	failedAt int64    // the last time
	live     int32    // connections; of users: those logged in; of claims: none
	unauth   int32    // those not logged in
	hash     uint32
	next     int32 // in the chain
	older    int32 // among those without connections
	newer    int32
	self     int32 // its place; none for overflow
	failures uint16
	part     uint8
	bits     uint8 // of a source
}

// bounds are the limits of a table's entries, ready to be used.
type bounds struct {
	concurrent int32
	unauth     int32
	turns      bucket
	bytes      [2]bucket // by Direction
	window     int64     // of failures
	free       int       // failures that are little to lose
}

func (s Scope) bounds(window time.Duration, free int) bounds {
	return bounds{
		concurrent: bound(s.Concurrent),
		unauth:     bound(s.Unauthenticated),
		turns:      s.Rate.bucket(),
		bytes:      [2]bucket{In: s.In.bucket(), Out: s.Out.bucket()},
		window:     int64(window),
		free:       free,
	}
}

// bound returns the limit n, or none.
func bound(n int) int32 {
	if n == 0 || n > math.MaxInt32 {
		return math.MaxInt32
	}
	return int32(n) //nolint:gosec // Checked, and not negative.
}

func newTable(entries int) *table {
	n := 1
	for n < mostParts && 2*n*partEntries <= entries {
		n *= 2
	}
	t := &table{seed: maphash.MakeSeed(), parts: make([]part, n)}
	for i := range t.parts {
		p := &t.parts[i]
		p.oldest, p.newest = none, none
		p.overflow.self = none
		p.overflow.part = uint8(i) //nolint:gosec // Below mostParts.
	}
	return t
}

// configure puts limits into force.
func (t *table) configure(now int64, b bounds, entries int) {
	for i := range t.parts {
		t.parts[i].configure(now, b, max(1, entries/len(t.parts)))
	}
}

func (p *part) configure(now int64, b bounds, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most = most
	if b == p.bounds {
		return
	}
	for e := range p.all {
		p.convert(e, now, b)
	}
	p.convert(&p.overflow, now, b)
	p.bounds = b
}

func (p *part) convert(e *entry, now int64, to bounds) {
	e.turn = p.bounds.turns.convert(e.turn, now, to.turns)
	for dir := range e.meters {
		e.meters[dir] = p.bounds.bytes[dir].convert(e.meters[dir], now, to.bytes[dir])
	}
}

// all yields the entries.
func (p *part) all(yield func(*entry) bool) {
	for i := range p.used {
		if !yield(p.at(i)) {
			return
		}
	}
}

// lock returns the part that is responsible for a key, locked, and the key's hash.
func (t *table) lock(k key) (*part, uint32) {
	h := maphash.Bytes(t.seed, k[:])
	i := int(uint32(h>>32)) & (len(t.parts) - 1) //nolint:gosec // The upper half.
	p := &t.parts[i]
	p.mu.Lock()
	return p, uint32(h) //nolint:gosec // The lower half.
}

// of returns the part of an entry, locked.
func (t *table) of(e *entry) *part {
	p := &t.parts[e.part]
	p.mu.Lock()
	return p
}

func (p *part) at(i int32) *entry {
	return &p.chunks[i/chunkLen][i%chunkLen]
}

// find returns the entry of a key, or nil.
func (p *part) find(k key, hash uint32) *entry {
	if p.used == 0 {
		return nil
	}
	for i := *p.head(hash); i != none; {
		e := p.at(i)
		if e.hash == hash && e.key == k {
			return e
		}
		i = e.next
	}
	return nil
}

// get returns the entry of a key, a new one if there is none, and the overflow
// entry if there is no room for it. bits belongs to the key.
func (p *part) get(now int64, k key, hash uint32, bits int) *entry {
	if e := p.find(k, hash); e != nil {
		return e
	}
	e := p.room(now)
	if e == nil {
		p.overflowed++
		return &p.overflow
	}
	*e = entry{key: k, hash: hash, self: e.self, part: p.overflow.part, bits: uint8(bits)} //nolint:gosec // At most 128.
	p.link(e)
	p.rest(e)
	return e
}

// room returns an entry for a newcomer, or nil: the package comment has the rule.
func (p *part) room(now int64) *entry {
	if e := p.longestIdle(); e != nil {
		if p.bounds.blank(e, now) {
			p.recycled++
			return p.drop(e)
		}
		if int(p.used) < p.most {
			p.busy(e) // so that it does not hide others
			p.rest(e)
		}
	}
	if int(p.used) < p.most {
		return p.grow()
	}
	for range probes {
		e := p.longestIdle()
		if e == nil {
			return nil
		}
		if p.bounds.faint(e, now) {
			p.evicted++
			return p.drop(e)
		}
		p.busy(e)
		p.rest(e)
	}
	return nil
}

// blank tells whether nothing is lost with an entry without connections.
func (b *bounds) blank(e *entry, now int64) bool {
	return !e.failing(now, b.window) && b.turns.debt(e.turn, now) == 0 &&
		b.bytes[In].debt(e.meters[In], now) == 0 && b.bytes[Out].debt(e.meters[Out], now) == 0
}

// faint tells whether little is lost with it.
func (b *bounds) faint(e *entry, now int64) bool {
	return !(e.failing(now, b.window) && int(e.failures) > b.free) &&
		b.turns.debt(e.turn, now) <= b.turns.span/2 &&
		b.bytes[In].debt(e.meters[In], now) <= b.bytes[In].span/2 &&
		b.bytes[Out].debt(e.meters[Out], now) <= b.bytes[Out].span/2
}

// grow returns one more entry.
func (p *part) grow() *entry {
	if int(p.used) == len(p.chunks)*chunkLen {
		p.chunks = append(p.chunks, new([chunkLen]entry))
	}
	p.used++
	if int(p.used) > len(p.heads) {
		p.rehash()
	}
	e := p.at(p.used - 1)
	e.self = p.used - 1
	return e
}

// rehash doubles the heads. The entry that was added last is not linked yet.
func (p *part) rehash() {
	p.heads = make([]int32, max(8, 2*len(p.heads)))
	for i := range p.heads {
		p.heads[i] = none
	}
	for i := range p.used - 1 {
		p.link(p.at(i))
	}
}

// head returns where the chain of a hash begins.
func (p *part) head(hash uint32) *int32 {
	return &p.heads[int(hash)&(len(p.heads)-1)]
}

// link puts an entry into its chain.
func (p *part) link(e *entry) {
	head := p.head(e.hash)
	e.next, *head = *head, e.self
}

// drop takes an entry without connections out.
func (p *part) drop(e *entry) *entry {
	p.busy(e)
	link := p.head(e.hash)
	for *link != e.self {
		link = &p.at(*link).next
	}
	*link = e.next
	return e
}

// longestIdle returns an entry without connections, or nil.
func (p *part) longestIdle() *entry {
	if p.oldest == none {
		return nil
	}
	return p.at(p.oldest)
}

// hold counts a connection of an entry.
func (p *part) hold(e *entry, live, unauth int32) {
	if e.live+e.unauth == 0 {
		p.busy(e)
	}
	e.live += live
	e.unauth += unauth
}

// release counts it no more.
func (p *part) release(e *entry, live, unauth int32) {
	e.live -= live
	e.unauth -= unauth
	if e.live+e.unauth == 0 {
		p.rest(e)
	}
}

// rest puts an entry that has no connections among the others.
func (p *part) rest(e *entry) {
	if e.overflowing() {
		return
	}
	e.older, e.newer = p.newest, none
	if p.newest == none {
		p.oldest = e.self
	} else {
		p.at(p.newest).newer = e.self
	}
	p.newest = e.self
}

// busy takes it out of them.
func (p *part) busy(e *entry) {
	if e.overflowing() {
		return
	}
	if e.older == none {
		p.oldest = e.newer
	} else {
		p.at(e.older).newer = e.newer
	}
	if e.newer == none {
		p.newest = e.older
	} else {
		p.at(e.newer).older = e.older
	}
}

// full returns why a source may have no further connection.
func (p *part) full(e *entry) Reason {
	switch {
	case e.overflowing() && (e.live >= p.bounds.concurrent || e.unauth >= p.bounds.unauth):
		return ReasonOverflowSource
	case e.live >= p.bounds.concurrent:
		return ReasonConcurrentSource
	case e.unauth >= p.bounds.unauth:
		return ReasonUnauthenticatedSource
	}
	return ReasonNone
}

// overflowing tells whether an entry is shared by all that find no room.
func (e *entry) overflowing() bool { return e.self == none }

// took takes bytes and returns how long the pause must be.
func (t *table) took(e *entry, now int64, dir Direction, n int) int64 {
	p := t.of(e)
	defer p.mu.Unlock()
	return p.bounds.bytes[dir].take(&e.meters[dir], now, n)
}
