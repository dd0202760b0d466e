package backend

import (
	"sync"
	"sync/atomic"
	"time"
)

// outbox is what waits to be written to a client. It is bounded. What happens when
// it is full depends on what comes:
//
//   - a timeline entry is left out; the store has it, and the cursor fetches it
//     when the client has read what waits;
//   - anything else cannot be had again, so the session is ended (slow-client);
//   - replies to the client itself never come to that: its next stanza is not
//     read before there is room (see room).
type outbox struct {
	limit int           // bytes
	wake  chan struct{} // something has changed for the writer
	freed chan struct{} // something has changed for the reader
	count atomic.Uint64 // stanzas written

	mu     sync.Mutex
	items  []item
	bytes  int
	missed bool   // an entry was left out
	closed bool   // nothing more comes
	last   []byte // to be written after all items
}

type itemKind uint8

const (
	itemRaw         itemKind = iota // not a stanza: not counted by XEP-0198
	itemStanza                      // a stanza that is not on a timeline
	itemEntry                       // an entry of the user's timeline was appended
	itemAvailable                   // the client takes messages from now on
	itemUnavailable                 // it does not any more
	itemAgain                       // entries that another session has not received
	itemEnabled                     // XEP-0198 begins with this element
	itemCarbons                     // the client wants copies from now on, or does not any more
	itemQuiet                       // the client is inactive from now on, or active again
)

// item is one thing for the writer to do. Its data is not changed by anybody.
type item struct {
	kind     itemKind
	sent     bool      // itemEntry: the user itself has sent it
	on       bool      // itemCarbons, itemQuiet; itemUnavailable: it is available, but takes nothing for the user
	data     []byte    // the stanza, as it is to be written or as it was stored
	seq      uint64    // itemEntry
	seqs     []uint64  // itemAgain
	resource string    // itemEntry: that it is for, if for one
	at       time.Time // itemEntry, itemAvailable: when the signal, or the presence, came
}

// itemOverhead is what an item costs beside its data.
const itemOverhead = 128

func newOutbox(limit int) *outbox {
	return &outbox{limit: limit, wake: make(chan struct{}, 1), freed: make(chan struct{}, 1)}
}

// push adds an item; it never waits. It returns false if the item is lost because
// the outbox is full, which no session may survive.
func (o *outbox) push(it item) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return true
	}
	if it.kind <= itemEntry && o.bytes >= o.limit {
		o.missed = o.missed || it.kind == itemEntry
		return it.kind == itemEntry
	}
	o.items = append(o.items, it)
	o.bytes += len(it.data) + itemOverhead
	poke(o.wake)
	return true
}

// miss tells the cursor that entries may be there of which no signal came.
func (o *outbox) miss() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.missed = true
	poke(o.wake)
}

// close lets the writer end once it has written everything, and then last.
func (o *outbox) close(last []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.closed, o.last = true, last
	poke(o.wake)
	poke(o.freed)
}

// taken is what take returns.
type taken struct {
	items  []item
	missed bool
	closed bool
	last   []byte
}

// take returns all that waits, which may be nothing.
func (o *outbox) take() taken {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := taken{items: o.items, missed: o.missed, closed: o.closed, last: o.last}
	o.items, o.bytes, o.missed = nil, 0, false
	poke(o.freed)
	return t
}

// room waits until the outbox has less than half of what it may have, or done is
// closed.
func (o *outbox) room(done <-chan struct{}) {
	for {
		o.mu.Lock()
		enough := o.closed || o.bytes < o.limit/2
		o.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-o.freed:
		case <-done:
			return
		}
	}
}

// total is the number of stanzas written.
func (o *outbox) total() uint64 { return o.count.Load() }

// poke puts a word into a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
