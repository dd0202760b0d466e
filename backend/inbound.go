package backend

import "sync"

// inbound counts the stanzas that come from a client, and which of them are
// handled: stored, answered or passed on. With XEP-0198 the client is told that
// number, so it is exact: messages on their way into the store do not count, and
// no stanza counts before all that came earlier.
type inbound struct {
	mu          sync.Mutex
	changed     signal // outstanding has changed
	all         uint64 // since login
	received    uint32 // since <enable/>, modulo 2^32
	handled     uint32 // the same
	outstanding int    // messages on their way into the store
	durable     uint32 // what the store has of handled
	broken      bool   // one of them did not get there: nothing counts any more
	unsure      bool   // … as far as is known
	last        bool   // the client has been told a count for the last time
	owed        bool   // the client is to be told a count once it is durable
	refused     bool   // the store has refused a message, and the error may not have arrived
	cut         bool   // the session ended while messages were on their way …
	cutAt       uint32 // … so that this stanza, and what came after it, does not count
	on          bool   // XEP-0198 is enabled
	wanted      bool   // the client waits for an answer to <r/> …
	wantedAt    uint32 // … that says at least this
}

// receive counts a stanza and returns its number.
func (in *inbound) receive() uint32 {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.all++
	in.received++
	return in.received
}

// wait returns when at most n messages are on their way, or done is closed.
func (in *inbound) wait(n int, done <-chan struct{}) {
	for {
		in.mu.Lock()
		if in.outstanding <= n {
			in.mu.Unlock()
			return
		}
		changed := in.changed.wait()
		in.mu.Unlock()
		select {
		case <-changed:
		case <-done:
			return
		}
	}
}

// busy tells whether messages are on their way.
func (in *inbound) busy() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.outstanding > 0
}

// submit notes that a received message goes into the store.
func (in *inbound) submit() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.outstanding++
}

// complete notes that a submitted message is durable, or that it is not. It
// returns the number to acknowledge if the client waits for it.
func (in *inbound) complete(ok bool) (h uint32, ack bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.outstanding--
	in.broken = in.broken || !ok
	in.changed.poke()
	h, ack = in.count()
	in.durable = in.handled
	return h, ack
}

// doubt notes that nobody knows whether a submitted message is durable. The store does, once it is back.
func (in *inbound) doubt() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.unsure = true
}

// sure tells whether the handled count is that of what is stored.
func (in *inbound) sure() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return !in.unsure
}

// refuse notes that the store has refused a submitted message, whose sender was told. It
// counts as handled, but the store does not know. owed tells that the client waits for
// a count that has to be made durable first.
func (in *inbound) refuse() (owed bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.outstanding--
	in.changed.poke()
	_, owed = in.count()
	in.owed = in.owed || owed
	return owed
}

// refusing notes that the client is about to be told that the store has refused a message.
func (in *inbound) refusing() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.refused = true
}

// takeRefused tells whether the store has refused a message since this was last asked.
func (in *inbound) takeRefused() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	was := in.refused
	in.refused = false
	return was
}

// owes tells whether the client is to be told a count once it is durable.
func (in *inbound) owes() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.owed
}

// pay takes that duty over. ack tells whether there was one.
func (in *inbound) pay() (h uint32, ack bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	h, ack, in.owed = in.handled, in.owed && !in.last, false
	return h, ack
}

// goOn continues the count of another session.
func (in *inbound) goOn(handled uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.on, in.received, in.handled, in.durable = true, handled, handled, handled
}

// settled returns the handled count, and whether the store has it.
func (in *inbound) settled() (handled uint32, durable bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.handled, in.durable == in.handled
}

// final is settled for a client that is told for the last time: what is handled from now on it is not told,
// since that would come before. on tells whether it counts.
func (in *inbound) final() (handled uint32, durable, on bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.last = true
	return in.handled, in.durable == in.handled, in.on
}

// saved notes that the store has a count.
func (in *inbound) saved(handled uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.durable = handled
}

// cutOff tells whether messages before a received stanza are on their way still, which is so only
// when the session has ended. Then the stanza is not to be handled, since it does not count, and
// nothing after it: the client will send it again.
func (in *inbound) cutOff(number uint32) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.cuts(number)
}

// cuts is cutOff under inbound.mu.
func (in *inbound) cuts(number uint32) bool {
	if in.outstanding == 0 {
		return false
	}
	in.cut, in.cutAt = true, number
	return true
}

// handle notes that a received stanza that does not go into the store is handled, unless it is
// cut off.
func (in *inbound) handle(number uint32) (h uint32, ack bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.cuts(number) {
		return 0, false
	}
	return in.count()
}

func (in *inbound) count() (h uint32, ack bool) {
	if in.broken || in.cut && in.handled+1 == in.cutAt {
		return 0, false
	}
	in.handled++
	if !in.wanted || in.handled != in.wantedAt {
		return 0, false
	}
	in.wanted = false
	return in.handled, !in.last
}

// enable begins to count for XEP-0198. It returns false if that was done before.
// No message is on its way then.
func (in *inbound) enable() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.on {
		return false
	}
	in.on, in.received, in.handled, in.durable = true, 0, 0, 0
	return true
}

// request asks for the handled count. ack is false when the answer has to wait for
// the store, or XEP-0198 is not enabled.
func (in *inbound) request() (h uint32, ack bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.on {
		return 0, false
	}
	if in.handled == in.received {
		return in.handled, true
	}
	in.wanted, in.wantedAt = true, in.received
	return 0, false
}

// current returns the count that may be acknowledged now.
func (in *inbound) current() (h uint32, on bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.handled, in.on
}

// total is the number of stanzas received since login.
func (in *inbound) total() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.all
}
