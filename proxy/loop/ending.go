package loop

import (
	"errors"
	"io"
	"math"
	"os"
	"time"
)

// Cause is how a session ended.
type Cause uint8

// The causes.
const (
	// EOF: both sides ended in order; Side did first.
	EOF Cause = iota
	// Reset: the connection of Side broke.
	Reset
	// Lost: Side vanished; retransmissions or keepalives went unanswered.
	Lost
	// Broken: the Stream of Side failed, for instance by a bad TLS record.
	Broken
	// Stalled: Side did not read for too long.
	Stalled
	// Idle: not a byte came from either side for too long.
	Idle
	// HalfOpen: Side had ended and waited for the other, from which not a byte came for
	// too long.
	HalfOpen
	// Unanswered: what Watch waits for did not come from Side in time.
	Unanswered
	// Refused: Watch has refused the client, which has got the answer to that.
	Refused
	// Drained: Drain was called.
	Drained
	// Aborted: Abort was called, or the group was closed.
	Aborted
	// Internal: a bug; Err is a *PanicError.
	Internal
)

// String returns the cause as it is logged.
func (c Cause) String() string {
	names := [...]string{"eof", "reset", "lost", "broken", "stalled", "idle", "half-open", "unanswered", "refused", "drained", "aborted", "internal"}
	if int(c) < len(names) {
		return names[c]
	}
	return "unknown"
}

// inOrder tells whether nothing was lost, so that the sides see an end and no reset, but
// for one that waits; see Relay.waits.
func (c Cause) inOrder() bool {
	return c == EOF || c == Idle || c == HalfOpen || c == Unanswered || c == Refused || c == Drained
}

// Ending is how a session ended.
type Ending struct {
	Side     Side  // whose doing it was; see Cause
	Cause    Cause //
	Err      error // nil for EOF, Idle, HalfOpen, Unanswered and Drained
	Ended    bool  // Side had ended in order before, as the first
	Up, Down int64 // bytes read from the client, those before the relay included, and from the node
}

// Refusal is an error of Watch: the client gets an answer instead of what was seen, and the session
// ends in order.
type Refusal struct {
	Answer []byte
	Err    error
}

// Error returns why.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns why.
func (r *Refusal) Unwrap() error { return r.Err }

// refuse ends the session because of what was seen.
func (r *Relay) refuse(err error) {
	e := Ending{Side: Node, Cause: Aborted, Err: err}
	if no := (*Refusal)(nil); errors.As(err, &no) && r.write(Client, no.Answer) == nil {
		e.Cause = Refused
	}
	r.finish(e)
}

// Abort ends the session at once; both sides see a reset. It may be called from
// any goroutine, and at any time.
func (r *Relay) Abort(err error) {
	r.loop().Post(func() {
		if r.lasts { // and the client is gone
			_ = r.ends[Node].Conn.Reset()
			r.lasted()
			return
		}
		r.finish(Ending{Cause: Aborted, Err: err})
	})
}

// Drain ends the session at its next pause, in order: when no byte has come from either side
// for the time of Limits.Pause, and none waits, the client gets the end; what it still sends
// goes to the node. The session is over when the client has ended, too, and the node has got all,
// or after the limit of lingering, if there is one: then the node sees a reset, since the client may
// have had more to say. What the node says from then on is lost, and answered with a reset when all is over.
//
// A session that never pauses goes on, since nobody could tell an end in its middle from the
// end of what the node has to say. So does one of which a side has ended, and waits for what
// the other still says, within the same limit as without Drain. Who cannot wait calls Abort.
// Drain may be called from any goroutine, and at any time.
func (r *Relay) Drain() {
	r.loop().Post(r.drained)
}

func (r *Relay) drained() {
	if r.over || r.draining {
		return
	}
	r.draining = true
	switch {
	case r.dirs[Client].parted: // nobody hears what the node still says
		r.conclude()
	case !r.open():
		r.ending, r.first = Ending{Side: Node, Cause: Drained}, true
		r.arm()
	case r.limits.Pause == 0:
		r.conclude()
	default:
		r.due(r.loop().now)
	}
}

// rest concludes a drained session that has been quiet, if nothing has come of which a busy loop
// has not heard yet.
func (r *Relay) rest() {
	last := r.last
	for side := range r.ends {
		r.ends[side].Conn.readable = true
		r.pump(Side(side)) //nolint:gosec // G115: 0 or 1
	}
	switch r.settle(); {
	case r.over:
	case r.pauses() && r.last == last:
		r.conclude()
	default:
		r.arm()
	}
}

// conclude tells the client of a drained session that it ends.
func (r *Relay) conclude() {
	if r.drain = math.MaxInt64; r.limits.Linger > 0 {
		r.drain = r.loop().now + int64(r.limits.Linger)
	}
	r.ending, r.first = Ending{Side: Node, Cause: Drained}, true
	r.dirs[Node].ended = true
	r.passEnd(Node)
	r.arm()
	r.settle()
}

// open tells whether neither side has ended.
func (r *Relay) open() bool { return !r.dirs[Client].ended && !r.dirs[Node].ended }

// writeFailed ends the direction to a side that cannot be written any more. That
// is not the end of the session yet: what came from the side before is read
// first, and then the error.
func (r *Relay) writeFailed(to Side, err error) {
	r.dirs[to.other()].ended, r.dirs[to.other()].passed = true, true
	if r.dirs[to].ended || r.ends[to].Conn.writeErr == nil {
		r.fail(to, err)
		return
	}
	r.ends[to].Conn.Wake()
}

// readEnd handles the error of a read.
func (r *Relay) readEnd(from Side, err error) {
	switch {
	case err == ErrAgain, errors.Is(err, ErrAgain): //nolint:errorlint // mostly it is, and this is the hot path
	case errors.Is(err, io.EOF):
		r.eof(from)
	case errors.Is(err, os.ErrDeadlineExceeded) && r.ends[from].Conn.late:
		_ = r.ends[from].Conn.SetReadDeadline(time.Time{}) // a stream set it
		r.ends[from].Conn.Wake()
	default:
		r.fail(from, err)
	}
}

// eof passes the end of a side on.
func (r *Relay) eof(from Side) {
	d := &r.dirs[from]
	if d.ended {
		return
	}
	d.ended = true
	r.last = r.loop().now // what may linger now may have been quiet before
	if !r.first {
		r.first, r.ending.Side = true, from
	}
	if _, ok := r.ends[from].Stream.(Parter); ok {
		r.leave(from)
	}
	r.passEnd(from)
	if r.draining && r.dirs[Client].parted && !r.dirs[Node].ended && !r.over {
		r.conclude() // nobody hears what the node still says
		return
	}
	r.arm()
}

// passEnd lets a side know that the other has ended. When both have, closing does
// that.
func (r *Relay) passEnd(from Side) {
	d, to := &r.dirs[from], &r.ends[from.other()]
	if d.passed || (d.pipe != nil && d.pipe.held > 0) {
		return
	}
	d.passed = true
	if r.dirs[from.other()].parted {
		return
	}
	if p, ok := to.Stream.(Parter); ok && p.Part(r.ending) {
		return // it is read to its answer
	}
	var err error
	if to.Stream != nil {
		err = to.Stream.CloseWrite()
	}
	if err == nil && (!r.dirs[from.other()].ended || to.Conn.out.len > 0) {
		err = to.Conn.CloseWrite()
	}
	if err != nil {
		r.writeFailed(from.other(), err)
	}
}

// leave lets go of a side whose stream has ended. What is pending is sent, and its peer has
// a moment to end the connection, unless it has let one pass already.
func (r *Relay) leave(side Side) {
	r.dirs[side].parted = true
	_ = r.ends[side].Stream.CloseWrite()
	r.ends[side].Conn.Linger(nil)
}

// settle ends the session when both directions have ended and nothing is pending.
func (r *Relay) settle() {
	if r.over {
		return
	}
	goesOn := false
	for side := 0; side < len(r.dirs) && !r.over; side++ {
		from := Side(side) //nolint:gosec // G115: 0 or 1
		if r.dirs[from].ended && !r.dirs[from].passed {
			r.passEnd(from) // whatever the other direction does
		}
		goesOn = goesOn || !r.dirs[from].ended || r.held(from)
	}
	if !goesOn {
		r.finish(r.ending)
	}
}

// fail ends the session because of what happened to a side.
func (r *Relay) fail(side Side, err error) {
	ended := r.first && r.ending.Side == side && r.ending.Cause == EOF
	r.finish(Ending{Side: side, Cause: r.blame(side, err), Err: err, Ended: ended})
}

// blame says how a side failed.
func (r *Relay) blame(side Side, err error) Cause {
	cause := classify(err)
	if cause == EOF || (cause == Broken && r.ends[side].Stream == nil) {
		return Reset
	}
	return cause
}

// finish ends the session.
func (r *Relay) finish(e Ending) {
	if r.over {
		return
	}
	r.over = true
	l := r.loop()
	l.wheel.stop(&r.timer)
	for side := range r.ends {
		if d := &r.dirs[side]; d.pipe != nil {
			d.cut = d.pipe.held > 0
			r.giveBack(d)
		}
	}
	e.Up, e.Down = r.Bytes()
	r.ending = e
	for _, side := range [...]Side{Node, Client} { // the node's mostly was the last that was read
		r.close(side, e)
	}
	if !r.lasts {
		r.done(r, e)
	}
}

// lasted tells of the end of a session of which the node's connection was the last, unless Abort has.
func (r *Relay) lasted() {
	if r.lasts {
		r.lasts = false
		r.done(r, r.ending)
	}
}

// close closes a side the way the ending calls for. Who sent a bad record has been
// told why, and should read it.
func (r *Relay) close(side Side, e Ending) {
	end := &r.ends[side]
	if r.dirs[side].parted {
		return
	}
	if p, ok := end.Stream.(Parter); ok && p.Part(e) {
		r.leave(side)
		return
	}
	switch {
	case e.Cause == Refused && side == Client: // it may have said more, and waits for nothing else
		if end.Stream != nil {
			_ = end.Stream.CloseWrite()
		}
		end.Conn.Linger(nil)
	case e.Cause == Drained && side == Node && !r.waits(side, e) && r.dirs[Node].ended && end.Conn.sock.unacked() > 0:
		// The reset for what it has said, which nobody reads, would drop what it has not got.
		r.lasts = true
		end.Conn.Linger(func() { r.loop().posts = append(r.loop().posts, r.lasted) }) // not before the client's is closed, too
	case e.Cause.inOrder() && !r.waits(side, e):
		if end.Stream != nil && !r.dirs[side.other()].passed {
			_ = end.Stream.CloseWrite()
		}
		if e.Cause == Drained {
			_ = end.Conn.CloseWrite() // or a reset for what it has said, which nobody reads, would take the place of the end
		}
		_ = end.Conn.Close()
	case e.Cause == Broken && side == e.Side:
		end.Conn.Linger(nil)
	default:
		end.Conn.sendOff() // what came before a reset gets there before it
		_ = end.Conn.Reset()
	}
}

// waits tells whether a side has ended, or was told so by Drain, and is cut off while it waits
// for what the other has to say, or whether some of that was lost. It must not take what it has
// got for all.
func (r *Relay) waits(side Side, e Ending) bool {
	other := &r.dirs[side.other()]
	return e.Cause != EOF && r.dirs[side].ended && !other.ended || other.cut
}

// Failed ends the session because of a panic.
func (r *Relay) Failed(_ *Conn, err error) {
	r.finish(Ending{Cause: Internal, Err: err})
}

var _ Failer = (*Relay)(nil)
