package loop

// outbox is what many connections have written in a turn, until all that the turn has brought
// has been read. To send wakes who waits at the other end, and often that is one process
// for all of them. When all is sent together it wakes once and finds much to do, and so does the
// loop with the answers.
type outbox struct {
	open   bool // writes are put off
	buf    []byte
	used   int // of buf
	writes []putOff
}

// putOff is what a connection has written.
type putOff struct {
	c *Conn
	p []byte // in outbox.buf
}

const (
	outboxSize = 32 << 10
	// outboxWrite is how long a write may be to be put off; it has to be copied.
	outboxWrite = 2 << 10
	// outboxWrites is how many are put off: who is first does not wait for hundreds.
	outboxWrites = 32
)

// take puts a write off that could be sent now, and tells whether it has.
func (o *outbox) take(c *Conn, p []byte) bool {
	if !o.open || len(p) > outboxWrite {
		return false
	}
	if len(o.writes) == outboxWrites || len(p) > len(o.buf)-o.used {
		o.send()
		if !c.writable || c.out.len > 0 || c.writeErr != nil {
			return false
		}
	}
	from := o.used
	o.used += copy(o.buf[from:], p)
	if last := len(o.writes) - 1; last >= 0 && o.writes[last].c == c {
		from = o.used - len(o.writes[last].p) - len(p) // they are one
		o.writes = o.writes[:last]
	}
	o.writes = append(o.writes, putOff{c, o.buf[from:o.used]})
	c.putOff = true
	return true
}

// send sends what was put off. It calls no handlers: those of connections that
// turn out to be broken are called later in the turn.
func (o *outbox) send() {
	writes := o.writes
	o.writes, o.used = o.writes[:0], 0
	for i := range writes {
		w := writes[i]
		writes[i] = putOff{}
		w.c.putOff = false
		if w.c.closed || w.c.writeErr != nil {
			continue
		}
		if _, err := w.c.give(w.p); err != nil {
			w.c.Wake()
		}
	}
}

// close sends what was put off, and has writes sent at once from then on.
func (o *outbox) close() {
	o.open = false
	o.send()
}

// sendOff has what was put off sent, because of what must come after it.
func (c *Conn) sendOff() {
	if c.putOff {
		c.loop.outbox.send()
	}
}
