package loop

import (
	"math"
	"sync/atomic"
	"time"
)

// Side is one of the two ends of a session.
type Side uint8

// The sides.
const (
	Client Side = iota
	Node
)

// String returns the side as it is logged.
func (s Side) String() string {
	if s == Client {
		return "client"
	}
	return "node"
}

func (s Side) other() Side { return 1 - s }

// Limits bound how long a session lasts in which nothing happens; 0 means for ever.
// Many sessions share one value, which does not change.
type Limits struct {
	Idle        time.Duration // no byte comes, either way
	ClientStall time.Duration // the client takes nothing of what waits for it
	NodeStall   time.Duration // the node does not
	Linger      time.Duration // no byte comes after one side has ended, or the client does not after Drain has told it to
	Pause       time.Duration // no byte comes, either way, before Drain tells the client; 0: it does so at once
}

// RelayConfig is what a session is made of.
type RelayConfig struct {
	// Client and Node are the ends. Both are on one loop. The relay takes them over,
	// their handlers, deadlines and stall limits.
	Client, Node End
	// Initial goes to the node first. It is not kept. The last Sent bytes of it are the
	// client's, and count as if they had been read here.
	Initial []byte
	Sent    int
	// Watch, unless it is nil, is called with what comes from the node before the client
	// gets it, until it returns that it needs no more. An error aborts the session, but for a *Refusal.
	Watch func(p []byte) (more bool, err error)
	// WatchTime is how long it may take until Watch needs no more; 0: for ever.
	WatchTime time.Duration
	// Limits may be nil.
	Limits *Limits
	// Throttle, by the side that was read from, is called with how many bytes that
	// were, those of a Meter that are not the session's too, and returns how long to read
	// no more. Either may be nil.
	Throttle [2]func(n int) time.Duration
	// Done is called once, on the loop, after NewRelay has returned. The
	// connections are closed then, or will be after what is pending.
	Done func(*Relay, Ending)
}

const (
	// turnBytes is how much one direction carries before others have their turn.
	turnBytes = 256 << 10
	// extraCost is what a byte that a Stream has read for itself takes of the turn: there may be
	// a frame for each six of them, or another key for each 27.
	extraCost = 4
	// bulkReads is how many reads in a row have to fill the buffer before a
	// direction is spliced.
	bulkReads = 3
	// bulkTurn is how much a turn has to carry for a direction to stay spliced.
	bulkTurn = scratchSize
)

// Relay is an opaque session: what one end sends, the other gets.
type Relay struct {
	ends   [2]End
	dirs   [2]direction // by the side that is read
	timer  timer
	last   int64 // when a byte came, or an end, on the loop's clock
	drain  int64 // when a drained session of which the client was told ends at last; 0 for others, math.MaxInt64 for no limit
	limits *Limits
	slow   *throttle // nil for none
	watch  *watching // nil when nothing has to be seen, or no more
	done   func(*Relay, Ending)
	ending Ending // its cause is EOF until another is known
	first  bool   // ending.Side is known
	over   bool
	lasts  bool // over, but for the node's connection; see Relay.close

	draining bool // Drain was called; see pauses
}

// direction is the way of the bytes from one side to the other.
type direction struct {
	bytes   atomic.Int64
	pipe    *pipe // holds bytes, or will soon; nil when not spliced
	full    uint8 // reads in a row that filled the buffer
	ended   bool  // nothing is read any more
	passed  bool  // and the other side knows
	waiting bool  // for the other side to take what is pending
	parted  bool  // the side that is read has gone, or been told to; see Parter
	cut     bool  // bytes of it were lost at the end
	owes    bool  // the side that is read has not taken all answers to what it says; see Relay.owes
	extra   int64 // what the Meter that is read said last
}

// throttle is what only sessions with limited bandwidth hold.
type throttle struct {
	pause [2]func(int) time.Duration
	until [2]int64 // when reading goes on; 0 for not paused
}

// watching is what only sessions hold of which the node's first bytes have to be seen.
type watching struct {
	see func([]byte) (more bool, err error)
	by  int64 // when it has to be over; 0 for no limit
}

var noLimits Limits //nolint:gochecknoglobals // the zero value

// NewRelay starts a session.
func NewRelay(cfg RelayConfig) *Relay {
	l := cfg.Client.Conn.loop
	r := &Relay{ends: [2]End{cfg.Client, cfg.Node}, limits: cfg.Limits, done: cfg.Done, last: l.now}
	if r.limits == nil {
		r.limits = &noLimits
	}
	if cfg.Throttle[Client] != nil || cfg.Throttle[Node] != nil {
		r.slow = &throttle{pause: cfg.Throttle}
	}
	if cfg.Watch != nil {
		r.watch = &watching{see: cfg.Watch}
		if cfg.WatchTime > 0 {
			r.watch.by = l.now + int64(cfg.WatchTime)
		}
	}
	r.timer.owner, r.timer.bucket = r, bucketNone
	for side, stall := range [2]time.Duration{r.limits.ClientStall, r.limits.NodeStall} {
		c := r.ends[side].Conn
		c.SetHandler(r)
		_ = c.SetReadDeadline(time.Time{})
		c.SetStall(stall)
	}
	if len(cfg.Initial) > 0 {
		if err := r.write(Node, cfg.Initial); err != nil {
			l.posts = append(l.posts, func() { r.writeFailed(Node, err) })
		}
	}
	r.count(Client, cfg.Sent, 0)
	r.arm()
	return r
}

// Bytes returns how many bytes have come from the client and from the node so far.
// It may be called from any goroutine.
func (r *Relay) Bytes() (up, down int64) {
	return r.dirs[Client].bytes.Load(), r.dirs[Node].bytes.Load()
}

func (r *Relay) loop() *Loop { return r.ends[Client].Conn.loop }

// Ready carries what can be carried.
func (r *Relay) Ready(c *Conn) {
	side := Client
	if c == r.ends[Node].Conn {
		side = Node
	}
	switch {
	case r.over:
		return
	case c.err != nil:
		r.fail(side, c.err)
		return
	case c.broken && !r.readable(side):
		r.fail(side, c.brokenBy())
		return
	}
	r.pump(side)
	if from := side.other(); !r.over && r.dirs[from].waiting {
		r.last = r.loop().now // until now nothing could come
		r.pump(from)
	}
	r.settle()
}

// readable tells whether a side may be read: it has not ended, what came from it
// is on its way, it has taken the answers, and it is not throttled.
func (r *Relay) readable(from Side) bool {
	d := &r.dirs[from]
	return !d.ended && !r.held(from) && !r.paused(from) && !r.owes(from)
}

// held tells whether bytes from a side wait for the other to take them.
func (r *Relay) held(from Side) bool {
	if r.dirs[from.other()].parted {
		return false
	}
	to := r.ends[from.other()].Conn
	return to.out.len > 0 || (r.dirs[from].pipe != nil && r.dirs[from].pipe.held > 0)
}

func (r *Relay) paused(from Side) bool { return r.slow != nil && r.slow.until[from] != 0 }

// pump carries bytes from a side to the other until there are none, the other
// takes no more, or it is the turn of others.
func (r *Relay) pump(from Side) {
	d := &r.dirs[from]
	for sum := 0; !r.over; {
		d.waiting = false
		if d.pipe != nil && d.pipe.held > 0 && !r.pour(from) {
			d.waiting = true
			return
		}
		if !r.readable(from) {
			d.waiting = r.held(from)
			return
		}
		if sum >= turnBytes {
			r.ends[from].Conn.Wake()
			return
		}
		n, err := r.carry(from)
		sum += n
		switch {
		case err != nil:
			r.lull(from, sum)
			r.readEnd(from, err)
			return
		case n == 0: // what came was for the stream itself
			sum += scratchSize
			r.last = r.loop().now
		}
	}
}

// carry moves one portion, and returns what it takes of the turn or why there is none.
func (r *Relay) carry(from Side) (int, error) {
	d := &r.dirs[from]
	if d.full >= bulkReads {
		if d.pipe == nil {
			d.pipe = r.loop().pipes.get()
		}
		if d.pipe != nil {
			n, err := r.ends[from].Conn.spliceIn(d.pipe)
			if n > 0 || err != nil {
				r.count(from, n, 0)
				return n, err
			}
		}
		d.full = 0
	}
	buf, conn := r.loop().scratch, r.ends[from].Conn
	came := conn.came
	n, extra, err := r.read(from, buf)
	r.count(from, n, extra)
	if n > 0 {
		if r.watch != nil && from == Node && !r.seen(buf[:n]) {
			return n, nil
		}
		if err := r.write(from.other(), buf[:n]); err != nil {
			r.writeFailed(from.other(), err)
		}
	}
	switch {
	case n < len(buf):
		d.full = 0
	case d.full < bulkReads && r.plain() && (r.watch == nil || from == Client):
		d.full++
	}
	return n + extraCost*max(extra, int(conn.came-came)-n), err
}

// seen shows what came from the node to who watches it, and tells whether the session
// goes on.
func (r *Relay) seen(p []byte) bool {
	more, err := r.watch.see(p)
	if !more {
		r.watch = nil
	}
	if err != nil {
		r.refuse(err)
	}
	return err == nil
}

// plain tells whether bytes go from socket to socket as they are.
func (r *Relay) plain() bool {
	return canSplice && r.ends[Client].Stream == nil && r.ends[Node].Stream == nil
}

// count notes that bytes came from a side, some of them not for the session, and pauses it
// if they were too many.
func (r *Relay) count(from Side, n, extra int) {
	if n+extra <= 0 {
		return
	}
	l := r.loop()
	if n > 0 {
		r.dirs[from].bytes.Add(int64(n))
	}
	if !r.dirs[from.other()].parted { // else nobody gets them
		r.last = l.now
	}
	if r.slow == nil || r.slow.pause[from] == nil {
		return
	}
	if d := r.slow.pause[from](n + extra); d > 0 {
		r.slow.until[from] = l.now + int64(d)
		r.armAt(r.slow.until[from])
	}
}

// pour empties a direction's pipe, and tells whether it is empty.
func (r *Relay) pour(from Side) bool {
	d, to := &r.dirs[from], from.other()
	if err := r.ends[to].Conn.spliceOut(d.pipe); err != nil {
		r.giveBack(d)
		r.writeFailed(to, err)
		return true
	}
	return d.pipe.held == 0
}

// lull gives a direction's pipe back when there is nothing to read, and has the
// direction copied again if it did not carry much.
func (r *Relay) lull(from Side, carried int) {
	d := &r.dirs[from]
	if d.pipe == nil || d.pipe.held > 0 {
		return
	}
	r.giveBack(d)
	if carried < bulkTurn {
		d.full = 0
	}
}

func (r *Relay) giveBack(d *direction) {
	if d.pipe != nil {
		r.loop().pipes.put(d.pipe)
		d.pipe = nil
	}
}

// expire is called by the wheel when something may be due.
func (r *Relay) expire() {
	l := r.loop()
	l.current = r.ends[Client].Conn
	r.due(l.now)
	l.current = nil
}

func (r *Relay) due(now int64) {
	idle, cause := r.idleLimit()
	switch {
	case r.drain != 0 && now >= r.drain:
		r.finish(r.ending)
		return
	case r.watchedUntil() != 0 && now >= r.watchedUntil():
		r.finish(Ending{Side: Node, Cause: Unanswered})
		return
	case r.unread(Client) || r.unread(Node):
		r.last = now
	case r.pauses() && now-r.last >= idle:
		r.rest()
		return
	case idle != 0 && now-r.last >= idle:
		r.finish(Ending{Side: r.ending.Side, Cause: cause})
		return
	}
	for side := range r.dirs {
		if r.slow != nil && r.slow.until[side] != 0 && now >= r.slow.until[side] {
			r.slow.until[side] = 0
			r.ends[side].Conn.Wake()
		}
	}
	r.arm()
}

// watchedUntil returns when what is watched has to be over; 0 for no limit. A drained session
// ends soon anyway.
func (r *Relay) watchedUntil() int64 {
	if r.watch == nil || r.draining {
		return 0
	}
	return r.watch.by
}

// unread tells whether a side may have sent more than was read of it, because the other, or
// itself, takes nothing, for which there is another limit, or because it is throttled.
func (r *Relay) unread(from Side) bool { return r.held(from) || r.paused(from) || r.owes(from) }

// idleLimit returns how long no byte need come, and what it means if none does. A
// drained session of which the client was told has a time to end at instead.
func (r *Relay) idleLimit() (limit int64, cause Cause) {
	half := r.dirs[Client].ended != r.dirs[Node].ended
	switch {
	case r.drain != 0:
		return 0, Drained
	case r.pauses():
		return int64(r.limits.Pause), Drained
	case half && r.limits.Linger != 0 && (r.limits.Idle == 0 || r.limits.Linger < r.limits.Idle):
		limit, cause = int64(r.limits.Linger), HalfOpen
	default:
		limit, cause = int64(r.limits.Idle), Idle
	}
	if r.draining {
		cause = Drained
	}
	return limit, cause
}

// pauses tells whether a drained session ends at its next pause.
func (r *Relay) pauses() bool { return r.draining && r.open() }

// arm sees to it that the timer fires when something is due.
func (r *Relay) arm() {
	if r.over {
		return
	}
	if idle, _ := r.idleLimit(); idle != 0 {
		r.armAt(r.last + idle)
	}
	if by := r.watchedUntil(); by != 0 {
		r.armAt(by)
	}
	if r.drain != 0 && r.drain != math.MaxInt64 {
		r.armAt(r.drain)
	}
	if r.slow != nil {
		for _, until := range r.slow.until {
			if until != 0 {
				r.armAt(until)
			}
		}
	}
}

func (r *Relay) armAt(when int64) {
	if !r.timer.armed() || when < r.timer.when {
		r.loop().wheel.set(&r.timer, when)
	}
}
