package backend

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imlb/backend/store"
)

// outbox is what waits to be written to a client. It is bounded. What happens when
// it is full depends on what comes:
//
//   - a timeline entry is left out; the store has it, and the cursor fetches it
//     when the client has read what waits. Entries have half of the limit to
//     themselves, on top of it: they never take the room of a reply;
//   - what others than contacts send is not put in at all when it is half full (see
//     spares);
//   - once much waits, of the presence of a resource only the last does (see latest);
//   - anything else cannot be had again, so the session is ended (slow-client);
//   - replies to the client itself never come to that: its next stanza is not
//     read before there is room (see room).
type outbox struct {
	limit  int           // bytes
	unseen counter       // of presence that has no room (see pushStatus)
	count  atomic.Uint64 // stanzas written

	mu     sync.Mutex
	freed  signal // something has changed for the reader
	spilt  signal // it was closed, and keeps too much
	items  []item
	bytes  int    // of all but entries
	entry  int    // bytes of entries
	missed bool   // an entry was left out
	seen   uint64 // the last entry of which a signal came
	before uint64 // the last entry that was there before the session, of which none comes
	closed bool   // nothing more is written
	keeps  bool   // … but what comes is kept for whoever goes on with the session
	over   bool   // nobody looks at what comes any more
	spare  int    // bytes of what is kept that the client could do without
	full   bool   // too much came for that
	last   []byte // to be written after all items
	due    bool   // something has changed for the writer
	start  func() // starts a writer; nil while one runs

	latest *latest // of the presence among items; nil: nobody has looked

	told store.Versions // what the client is told of with all that was taken in
}

type itemKind uint8

const (
	itemRaw         itemKind = iota // not a stanza: not counted by XEP-0198
	itemStanza                      // a stanza that is not on a timeline
	itemEntry                       // an entry of the user's timeline was appended
	itemAvailable                   // the client takes messages from now on
	itemUnavailable                 // it does not any more
	itemAgain                       // entries that another session has not received
	itemEnabled                     // XEP-0198 begins here
	itemCarbons                     // the client wants copies from now on, or does not any more
	itemQuiet                       // the client is inactive from now on, or active again
	itemTold                        // with all that comes before, the client is told of changes up to some versions
)

// item is one thing for the writer to do. Its data is not changed by anybody.
type item struct {
	kind     itemKind
	sent     bool      // itemEntry: the user itself has sent it
	on       bool      // itemCarbons, itemQuiet; itemUnavailable: it is available, but takes nothing for the user
	alone    bool      // itemStanza: no other session here has got it
	asks     bool      // itemStanza: whoever has sent it has to be told if it is not written
	data     []byte    // the stanza, as it is to be written or as it was stored
	seq      uint64    // itemEntry
	after    uint64    // itemStanza: entries up to this one come before it
	status   bool      // itemStanza: it is presence that says how available somebody is
	said     bool      // itemStanza: as well as those that were there before the session, since somebody has said it after them
	seqs     []uint64  // itemAgain
	resource string    // itemEntry: that it is for, if for one
	at       time.Time // itemEntry, itemAvailable: when the signal, or the presence, came
	enable   *enabling // itemEnabled

	told store.Versions // itemTold
}

// itemOverhead is what an item costs beside its data.
const itemOverhead = 128

// counter is what counts.
type counter interface{ Inc() }

func newOutbox(limit int, unseen counter) *outbox {
	return &outbox{limit: limit, unseen: unseen}
}

// rouse has the writer look, and starts one if none runs. Who has nothing to write needs
// no goroutine for it.
func (o *outbox) rouse() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.change()
}

// change is rouse, under outbox.mu.
func (o *outbox) change() {
	o.due = true
	if start := o.start; start != nil {
		o.start = nil
		start()
	}
}

// idle reports that nothing has changed since the writer last looked. The writer has to end
// then; start, which does not wait, is called when there is something for it again.
func (o *outbox) idle(start func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.due {
		o.due = false
		return false
	}
	o.start = start
	return true
}

// push adds an item; it never waits. It returns false if the item is lost because
// the outbox is full, which no session may survive, or if it asks and the session is gone.
func (o *outbox) push(it item) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen = max(o.seen, it.seq)
	switch {
	case it.kind == itemStanza:
		it.after = o.seen
	case it.kind == itemTold && !o.over:
		o.told = later(o.told, it.told)
	}
	if it.said {
		it.after = max(it.after, o.before)
	}
	if it.status && o.bytes >= o.limit/statusShare && (o.keeps || !o.closed) && !o.over {
		return o.pushStatus(it)
	}
	return o.add(it)
}

// add is push under outbox.mu, of an item that is complete.
func (o *outbox) add(it item) bool {
	if o.closed {
		return o.put(it)
	}
	switch {
	case it.kind == itemEntry && o.entry >= o.limit/2:
		o.missed = true
		return true
	case it.kind == itemEntry:
		o.entry += len(it.data) + itemOverhead
	case it.kind < itemEntry && o.bytes >= o.limit:
		return false
	default:
		o.bytes += o.cost(it)
	}
	o.items = append(o.items, it)
	o.change()
	return true
}

// cost is what an item takes of the limit. One that is longer than all that may wait, as a roster can be, leaves
// room for others.
func (o *outbox) cost(it item) int { return min(len(it.data)+itemOverhead, o.limit/2) }

// put keeps a stanza after the outbox was closed. Entries need not be kept, and of a session that
// has ended for good what asks need.
func (o *outbox) put(it item) bool {
	if o.over || it.kind != itemStanza || !o.keeps && !it.asks {
		return !it.asks
	}
	if o.bytes += o.cost(it); o.bytes > o.limit {
		o.full = true // what was kept is looked at once more, for who waits for an answer
		o.spilt.poke()
		return !it.asks
	}
	o.items = append(o.items, it)
	return true
}

// finish keeps what has come, and nothing that comes from now on.
func (o *outbox) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
}

// parked tells whether the outbox keeps what comes for whoever goes on with the session.
func (o *outbox) parked() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed && o.keeps
}

// spareRoom takes room for a stanza that is kept as long as there is enough for those that
// have to be.
func (o *outbox) spareRoom(size int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	cost := size + itemOverhead
	if o.spare+cost > o.limit/2 {
		return false
	}
	o.spare += cost
	return true
}

// prepend puts items before all that have come. They take no room of what comes: the writer is about to
// take them.
func (o *outbox) prepend(items []item) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(items) == 0 {
		return
	}
	for _, it := range items {
		o.told = later(o.told, it.told)
	}
	o.items, o.latest = slices.Concat(items, o.items), nil
	o.change()
}

// tells returns up to which versions the client is told with all that was taken in.
func (o *outbox) tells() store.Versions {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.told
}

// rest returns the stanzas that were kept, and whether they are all.
func (o *outbox) rest() (stanzas []item, all bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, it := range o.items {
		if it.kind == itemStanza {
			stanzas = append(stanzas, it)
		}
	}
	return stanzas, !o.full
}

// begin notes up to which entry the timeline was there when the session began to hear of it, or
// soon after that: what has been said meanwhile comes before the entries that came after it.
func (o *outbox) begin(head uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.before = head
	for i, it := range slices.Backward(o.items) {
		switch {
		case it.kind == itemEntry:
			head = min(head, it.seq-1)
		case it.said:
			o.items[i].after = max(it.after, head)
		}
	}
}

// miss tells the cursor that entries may be there of which no signal came.
func (o *outbox) miss() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.missed = true
	o.change()
}

// close lets the writer end once it has written everything, and then last. What
// comes after that is lost, unless it is to be kept.
func (o *outbox) close(last []byte, keep bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.closed, o.keeps, o.last = true, keep, last
	o.change()
	o.freed.poke()
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
	o.items, o.latest, o.bytes, o.entry, o.missed = nil, nil, 0, 0, false
	o.freed.poke()
	return t
}

// halfFull tells whether half of what the outbox may have waits.
func (o *outbox) halfFull() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes >= o.limit/2
}

// room waits until the outbox has less than half of what it may have, or done is
// closed.
func (o *outbox) room(done <-chan struct{}) {
	for {
		o.mu.Lock()
		if o.closed || o.bytes < o.limit/2 {
			o.mu.Unlock()
			return
		}
		freed := o.freed.wait()
		o.mu.Unlock()
		select {
		case <-freed:
		case <-done:
			return
		}
	}
}

// airy tells whether the outbox has less than half of what room lets in.
func (o *outbox) airy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes < o.limit/4
}

// total is the number of stanzas written.
func (o *outbox) total() uint64 { return o.count.Load() }

// overflow tells when a closed outbox keeps too much.
func (o *outbox) overflow() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.spilt.wait()
	if o.full {
		o.spilt.poke()
	}
	return c
}

// signal is a channel that holds one word, and is made when somebody waits for it for
// the first time. Its owner guards it.
type signal chan struct{}

func (s *signal) wait() <-chan struct{} {
	if *s == nil {
		*s = make(signal, 1)
	}
	return *s
}

func (s *signal) poke() {
	if *s != nil {
		poke(*s)
	}
}

// poke puts a word into a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
