package backend

import "sync"

// inbound counts the stanzas that come from a client, and which of them are
// handled: stored, answered or passed on. With XEP-0198 the client is told that
// number, so it is exact: messages on their way into the store do not count, and
// no stanza counts before all that came earlier.
type inbound struct {
	changed chan struct{} // outstanding has changed

	mu          sync.Mutex
	all         uint64 // since login
	received    uint32 // since <enable/>, modulo 2^32
	handled     uint32 // the same
	outstanding int    // messages on their way into the store
	broken      bool   // one of them did not get there: nothing counts any more
	on          bool   // XEP-0198 is enabled
	wanted      bool   // the client waits for an answer to <r/> …
	wantedAt    uint32 // … that says at least this
}

func (in *inbound) init() { in.changed = make(chan struct{}, 1) }

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
		enough := in.outstanding <= n
		in.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-in.changed:
		case <-done:
			return
		}
	}
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
	poke(in.changed)
	return in.count()
}

// handle notes that a received stanza that does not go into the store is handled.
// None is on its way then.
func (in *inbound) handle() (h uint32, ack bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.count()
}

func (in *inbound) count() (h uint32, ack bool) {
	if in.broken {
		return 0, false
	}
	in.handled++
	if !in.wanted || in.handled != in.wantedAt {
		return 0, false
	}
	in.wanted = false
	return in.handled, true
}

// enable begins to count for XEP-0198. It returns false if that was done before.
// No message is on its way then.
func (in *inbound) enable() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.on {
		return false
	}
	in.on, in.received, in.handled = true, 0, 0
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
