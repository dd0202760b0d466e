package backend

import (
	"slices"
	"sync"
	"time"

	"imlb/backend/store"
)

// flight says what a user has received once a client has acknowledged a stanza.
type flight struct {
	count uint32 // the stanza's number in XEP-0198's count
	seq   uint64 // the entry that the stanza was, 0 if it was none
	upTo  uint64 // all entries up to this one were for the client and written, or not for it; 0: nothing is said about others
	pos   uint64 // where the session's cursor is once this has arrived; 0: it was written out of turn
}

// kept is a stanza that is no entry, and can be written again.
type kept struct {
	count uint32
	seq   uint64 // of the entry that it is a copy of, else 0
	raw   []byte // not changed by anybody

	answered bool // a request that the client has answered
}

// telling says up to which changes a client has been told of once it has acknowledged a stanza.
type telling struct {
	count uint32
	told  store.Versions
}

// tellingMost bounds how many of these are remembered. Beyond that the last one stands for several.
const tellingMost = 256

// unacked are the entries that are written to a client but not yet known to have
// arrived. Without XEP-0198 an entry has arrived when it is written.
type unacked struct {
	mu        sync.Mutex
	sent      uint32 // stanzas written since <enabled/>, modulo 2^32
	acked     uint32 // of these, acknowledged
	flights   []flight
	claim     uint64 // all entries up to this one that are for the user had arrived when acked was, or were left to others
	on        bool
	requested bool   // an <r/> is on its way
	heard     bool   // the client has said that it is there, or something to somebody
	unsure    bool   // the first flights are of the time before <enabled/>, and the client has not said that it has that
	asked     uint32 // what was sent when the <r/> was

	// For a session that may be resumed.
	keeping bool
	hasLost bool          // there is a last stanza that was not kept, and may not have arrived
	stalls  uint8         // for how many answers to <r/> the count has not changed
	lost    uint32        // which that is
	pos     uint64        // all entries up to this one that are for the client had arrived when acked was
	early   []savedFlight // entries that were written out of turn: the cursor may come to them once more
	voided  uint32        // the places that stanzas up to this one told are none any more: the cursor went back
	points  uint32        // how often point was asked for
	kept    []kept        // of these stanzas nobody knows whether they have arrived
	bytes   int           // of kept

	told    store.Versions // up to which changes the client had been told of when acked was …
	telling []telling      // … and up to which when it has these stanzas

	owed []owed // requests of the client whose answers may not have arrived; see answers.go
}

// keptBytes bounds what is kept for one client to be written again. Who does not
// acknowledge more than that cannot resume before it has.
const keptBytes = 256 << 10

// askBytes is how much may be kept before the client is asked for its count on
// account of that.
const askBytes = 32 << 10

// enable begins to count. What was written before, and is not known to have arrived, has when the client
// acknowledges anything.
func (u *unacked) enable() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.on, u.unsure = true, len(u.flights) > 0
}

// hear notes that the client has said that it is there, or something to somebody. One that does without XEP-0198 has what was
// written: it returns what has arrived.
func (u *unacked) hear() []flight {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.heard = true
	if u.on {
		return nil
	}
	n := 0
	for n < len(u.flights) && u.flights[n].count == 0 { // what comes after these is not written yet
		n++
	}
	return u.arrive(n)
}

// arrive removes and returns the first n flights.
func (u *unacked) arrive(n int) []flight {
	arrived := u.flights[:n:n]
	for _, f := range arrived {
		u.pos, u.claim = max(u.pos, f.pos), max(u.claim, f.upTo)
	}
	if u.flights = u.flights[n:]; len(u.flights) == 0 {
		u.flights = nil
	}
	return arrived
}

// counting tells whether that has begun.
func (u *unacked) counting() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.on
}

// keep begins to keep what it takes to write again what has not arrived; all entries
// up to pos have.
func (u *unacked) keep(pos uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.keeping, u.pos = true, pos
	for _, f := range u.flights {
		u.early = append(u.early, savedFlight{Seq: f.seq}) // who comes back has the answer to <enable/>, and all before
	}
}

// goOn continues another session's counts, of which the client has received acked
// stanzas, and with these what a says, and all that tells of the changes up to told.
func (u *unacked) goOn(acked uint32, a arrival, told store.Versions) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.on, u.keeping = true, true
	u.sent, u.acked, u.voided, u.pos, u.claim, u.early, u.told = acked, acked, acked, a.pos, a.claim, a.early, told
}

// tell notes up to which changes what was counted so far tells of. It returns whether that has made the client
// known to have heard of more.
func (u *unacked) tell(told store.Versions) (has bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if later(u.told, told) == u.told {
		return false
	}
	switch n := len(u.telling); {
	case n == 0 && u.sent == u.acked:
		u.told = later(u.told, told)
		return true
	case n > 0 && (u.telling[n-1].count == u.sent || n >= tellingMost):
		u.telling[n-1] = telling{u.sent, later(u.telling[n-1].told, told)}
	default:
		u.telling = append(u.telling, telling{u.sent, told})
	}
	return false
}

// untold notes that the client does not know the roster: it has asked for it.
func (u *unacked) untold() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.told.Roster = 0
	for i := range u.telling {
		u.telling[i].told.Roster = 0
	}
}

// stanza counts one that is about to be written and is no entry, but may be the copy of the
// entry seq. It is not changed afterwards.
func (u *unacked) stanza(raw []byte, seq uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sent++
	if !u.keeping {
		return
	}
	u.putOwed(raw)
	u.kept = append(u.kept, kept{count: u.sent, seq: seq, raw: raw})
	if u.bytes += len(raw); u.bytes > keptBytes {
		u.lost, u.hasLost = u.sent, true
		u.kept, u.bytes = nil, 0
	}
}

// entry counts one that is about to be written. It returns how many wait. foreign tells whether the entry is for another
// client of the user, which is not here: whoever goes on with the session cannot tell such entries from those that were left to others.
func (u *unacked) entry(seq, upTo, pos uint64, foreign bool) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sent++
	u.flights = append(u.flights, flight{u.sent, seq, upTo, pos})
	if (upTo == 0 || foreign) && u.keeping {
		u.early = append(u.early, savedFlight{Count: u.sent, Seq: seq})
		u.early = u.early[max(0, len(u.early)-earlyMax):]
	}
	return len(u.flights)
}

// earlyMax bounds how many entries are remembered that were written out of turn, or before the client was heard. What is forgotten may
// come twice.
const earlyMax = 256

// wasEarly tells whether an entry was written out of turn.
func (u *unacked) wasEarly(seq uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.ContainsFunc(u.early, func(f savedFlight) bool { return f.Seq == seq })
}

// goneBy returns the entries that were written out of turn, but for those to which the cursor does not come
// any more: it goes back after what the user, or the client, has received; under unacked.mu.
func (u *unacked) goneBy(delivered uint64) []savedFlight {
	u.early = slices.DeleteFunc(u.early, func(f savedFlight) bool { return f.Seq <= min(delivered, u.pos) })
	if len(u.early) == 0 {
		u.early = nil
	}
	return slices.Clone(u.early)
}

// skip notes that an entry was not for the client. It returns how many wait.
func (u *unacked) skip(upTo uint64) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.flights); n > 0 && u.flights[n-1].upTo != 0 && u.flights[n-1].count == u.sent {
		u.flights[n-1].upTo, u.flights[n-1].pos = upTo, upTo
		return n
	}
	u.flights = append(u.flights, flight{u.sent, 0, upTo, upTo})
	return len(u.flights)
}

// pass notes that the cursor is at pos, and that nothing is said about the entry
// there but that what was written of it, a copy, has to arrive.
func (u *unacked) pass(pos uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch n := len(u.flights); {
	case n > 0 && u.flights[n-1].count == u.sent:
		u.flights[n-1].pos = pos
	case u.sent != u.acked:
		u.flights = append(u.flights, flight{u.sent, 0, 0, pos})
	default:
		u.pos = pos
	}
}

// rewind notes that the cursor goes back to pos: what is written from there on decides
// where the client is. It returns whether a session that may be resumed has to go on
// from an earlier entry than was said before. The user has received all entries up to received: the client need not get those
// that are not on their way to it.
func (u *unacked) rewind(pos, received uint64) (earlier bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	earlier = u.keeping && pos < u.pos
	for i := range u.flights {
		earlier = earlier || u.keeping && pos < u.flights[i].pos
		u.flights[i].pos = 0
		if seq := u.flights[i].seq; seq != 0 {
			received = min(received, seq-1)
		}
	}
	u.pos, u.voided, u.claim = min(u.pos, pos), u.sent, max(u.claim, received)
	return earlier
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
	if !u.on || u.requested && (u.stalls == 0 || u.sent == u.asked) || u.sent == u.acked && !u.unsure || !u.waiting() {
		return false
	}
	u.requested, u.asked = true, u.sent
	return true
}

// A client that has not counted what it was asked about, as it counts late or wrongly, would be asked and answer without end.
// So it is asked once more after a while, which doubles with each such answer, and no more after the last of them, but when
// there is something new for it.
const (
	firstStall = time.Second
	stallsMost = 6
)

// stall notes an answer that does not say more than was known. It returns how long to wait before the client is asked
// again; 0: it is not.
func (u *unacked) stall() time.Duration {
	if !u.requested || u.stalls == stallsMost {
		return 0
	}
	u.stalls++
	return firstStall << (u.stalls - 1)
}

// askAgain has the client asked for its count once more.
func (u *unacked) askAgain() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requested = false
}

// crowded tells whether more than most are on their way to a client that is to acknowledge them.
func (u *unacked) crowded(most int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.on && len(u.flights) > most
}

// skippedMost is how many flights may gather that are no entries before the client is
// asked for its count on their account.
const skippedMost = 64

// waiting tells whether an entry, or much that was skipped, is on its way.
func (u *unacked) waiting() bool {
	if len(u.flights) > skippedMost || u.bytes > askBytes || u.owesMuch() {
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
		for _, t := range u.telling {
			u.told = later(u.told, t.told)
		}
		u.sent, u.acked, u.telling = 0, 0, nil
		if u.heard || len(u.flights) > earlyMax {
			return u.arrive(len(u.flights))
		}
		for i := range u.flights {
			u.flights[i].count = 0
		}
		return nil
	}
	return u.arrived()
}

// ack takes the client's count (XEP-0198 §4) and returns what has arrived, and after which pause to ask
// again if it says nothing new. ok is false when the client claims more than was written.
func (u *unacked) ack(h uint32) (arrived []flight, pause time.Duration, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.on || !u.plausible(h) {
		return nil, 0, false
	}
	if h == u.acked && h != u.sent && !u.unsure {
		return u.arrived(), u.stall(), true
	}
	u.acked = h
	u.requested, u.unsure, u.stalls = false, false, 0
	u.forget()
	return u.arrived(), 0, true
}

// admits tells whether a client can have counted h stanzas: no less than it has acknowledged,
// and no more than were written.
func (u *unacked) admits(h uint32) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.plausible(h)
}

func (u *unacked) plausible(h uint32) bool { return h-u.acked <= u.sent-u.acked } // modulo 2^32

// forget drops what was kept of stanzas that have arrived.
func (u *unacked) forget() {
	n := 0
	for n < len(u.kept) && !after(u.kept[n].count, u.acked) {
		u.bytes -= len(u.kept[n].raw)
		n++
	}
	if u.kept = u.kept[n:]; len(u.kept) == 0 {
		u.kept = nil
	}
	u.hasLost = u.hasLost && after(u.lost, u.acked)
	u.forgetOwed()
}

// after tells whether a count comes after another, modulo 2^32.
func after(count, other uint32) bool { return int32(count-other) > 0 } //nolint:gosec // Modulo 2^32 on purpose.

// arrived removes and returns the flights that the client's count covers.
func (u *unacked) arrived() []flight {
	n := 0
	for n < len(u.flights) && !after(u.flights[n].count, u.acked) && !u.unsure {
		n++
	}
	heard := 0
	for heard < len(u.telling) && !after(u.telling[heard].count, u.acked) {
		u.told = later(u.told, u.telling[heard].told)
		heard++
	}
	if u.telling = u.telling[heard:]; len(u.telling) == 0 {
		u.telling = nil
	}
	return u.arrive(n)
}

// point returns where the client is for sure, up to which stanza the places that were told
// are none, and of which changes it has heard. It has a higher number each time: the store may get to it in another order. delivered
// is what the user has received, and early what was written out of turn beyond that.
func (u *unacked) point(delivered uint64) (p store.ResumePoint, early []savedFlight) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !after(u.voided, u.acked) {
		u.voided = u.acked // what is that old does not matter, but its number would come again
	}
	u.points++
	return store.ResumePoint{Count: u.acked, Pos: u.pos, Claimed: u.claim, Voided: u.voided, Told: u.told, Number: u.points}, u.goneBy(delivered)
}

// leftover returns what has been written and may not have arrived. It is not changed
// afterwards.
func (u *unacked) leftover() leftover {
	u.mu.Lock()
	defer u.mu.Unlock()
	return leftover{Sent: u.sent, Flights: savedFlights(u.flights), Kept: savedKept(u.kept), Lost: u.lost, HasLost: u.hasLost}
}

// counts returns what was written and what of it is acknowledged.
func (u *unacked) counts() (sent, acked uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent, u.acked
}
