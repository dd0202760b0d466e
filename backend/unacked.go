package backend

import "sync"

// flight says what a user has received once a client has acknowledged a stanza.
type flight struct {
	count uint32 // the stanza's number in XEP-0198's count
	seq   uint64 // the entry that the stanza was, 0 if it was none
	upTo  uint64 // all entries up to this one were for the client and written, or not for it; 0: nothing is said about others
}

// unacked are the entries that are written to a client but not yet known to have
// arrived. Without XEP-0198 an entry has arrived when it is written.
type unacked struct {
	mu        sync.Mutex
	on        bool
	sent      uint32 // stanzas written since <enabled/>, modulo 2^32
	acked     uint32 // of these, acknowledged
	flights   []flight
	requested bool // an <r/> is on its way
}

// enable begins to count.
func (u *unacked) enable() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.on = true
}

// stanza counts one that is about to be written and is no entry.
func (u *unacked) stanza() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sent++
}

// entry counts one that is about to be written. It returns how many wait.
func (u *unacked) entry(seq, upTo uint64) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sent++
	u.flights = append(u.flights, flight{u.sent, seq, upTo})
	return len(u.flights)
}

// skip notes that an entry was not for the client. It returns how many wait.
func (u *unacked) skip(upTo uint64) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.flights); n > 0 && u.flights[n-1].upTo != 0 && u.flights[n-1].count == u.sent {
		u.flights[n-1].upTo = upTo
		return n
	}
	u.flights = append(u.flights, flight{u.sent, 0, upTo})
	return len(u.flights)
}

// has tells whether an entry is on its way.
func (u *unacked) has(seq uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, f := range u.flights {
		if f.seq == seq {
			return true
		}
	}
	return false
}

// request tells whether to ask the client for its count now.
func (u *unacked) request() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.on || u.requested || u.sent == u.acked || !u.waiting() {
		return false
	}
	u.requested = true
	return true
}

// skippedMost is how many flights may gather that are no entries before the client is
// asked for its count on their account.
const skippedMost = 64

// waiting tells whether an entry, or much that was skipped, is on its way.
func (u *unacked) waiting() bool {
	if len(u.flights) > skippedMost {
		return true
	}
	for _, f := range u.flights {
		if f.seq != 0 {
			return true
		}
	}
	return false
}

// written returns what has arrived now that everything counted is written.
func (u *unacked) written() []flight {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.on {
		u.sent, u.acked = 0, 0
		arrived := u.flights
		u.flights = nil
		return arrived
	}
	return u.arrived()
}

// ack takes the client's count (XEP-0198 §4) and returns what has arrived. ok is
// false when the client claims more than was written.
func (u *unacked) ack(h uint32) (arrived []flight, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.on || h-u.acked > u.sent-u.acked { // modulo 2^32
		return nil, false
	}
	u.acked = h
	u.requested = false
	return u.arrived(), true
}

// arrived removes and returns the flights that the client's count covers.
func (u *unacked) arrived() []flight {
	n := 0
	for n < len(u.flights) && int32(u.flights[n].count-u.acked) <= 0 { //nolint:gosec // Modulo 2^32 on purpose.
		n++
	}
	arrived := u.flights[:n:n]
	u.flights = u.flights[n:]
	if len(u.flights) == 0 {
		u.flights = nil
	}
	return arrived
}

// counts returns what was written and what of it is acknowledged.
func (u *unacked) counts() (sent, acked uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent, u.acked
}
