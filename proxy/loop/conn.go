package loop

import (
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// closeStall is how long a closed connection tries to send what is pending, if no
// SetStall says otherwise.
const closeStall = 10 * time.Second

// Handler is told that a connection may have something to do.
type Handler interface {
	// Ready is called when bytes or the end have arrived, when pending output has
	// been sent, when a deadline has passed or the connection broke, and after Wake.
	// Calling Read tells which. It may be called for nothing. It is called once for
	// an arrival: a handler that does not read until ErrAgain calls Wake, or Read
	// when it can take more.
	Ready(c *Conn)
}

// Failer is a Handler, or a Dialer, that is told that it panicked. The connection is closed;
// it is nil if a Dialer had got none.
type Failer interface {
	Handler
	Failed(c *Conn, err error)
}

// Conn is a TCP connection on a loop. It implements net.Conn, and never blocks.
type Conn struct {
	loop    *Loop
	handler Handler
	sock    socket
	slot    int32  // in Loop.conns
	gen     int32  // tells events from those of an earlier connection in the slot
	full    int32  // bytes that were not acknowledged when the kernel took no more, or later; see takes
	came    uint32 // bytes that were read, over and over from 0; see Relay.read

	out      queue // what the kernel did not take
	timer    timer // at the earlier of deadline and stall, or before
	deadline int64 // of reading, on the loop's clock; 0 for none
	stall    int64 // how long output may make no progress, in ns; 0 for ever
	blocked  int64 // since when it makes none; 0 if nothing waits
	left     int64 // bytes that the peer had not acknowledged; see Await
	err      error // ends reading and writing: ErrStalled, net.ErrClosed
	writeErr error // what a write came to; read when all has been read

	readable   bool // a read may give something
	eager      bool // a short read does not mean that there is no more
	writable   bool // a write may take something
	broken     bool // the kernel reported an error
	late       bool // deadline has passed
	queued     bool // in Loop.queue
	connecting bool // handler is a Dialer
	undelayed  bool // TCP_NODELAY is set
	sent       bool // something was sent
	noWrite    bool // CloseWrite was called
	finSent    bool // and done
	closing    bool // Close was called, output is pending
	closed     bool
	corked     bool // output is gathered
	putOff     bool // output is in the outbox: there is no other, and the kernel takes some
	awaits     bool // the peer has not got all, and deadline is when to look again
}

var _ net.Conn = (*Conn)(nil)

// newConn puts a connected socket on the loop.
func (l *Loop) newConn(s socket) (*Conn, error) {
	if l.stopping {
		return nil, errors.Join(net.ErrClosed, s.close(true))
	}
	c := &Conn{sock: s, readable: true, writable: true, undelayed: true}
	l.add(c)
	if err := l.poll.add(l, c); err != nil {
		l.remove(c)
		return nil, errors.Join(opError("register", err), s.close(false))
	}
	return c, nil
}

// Loop returns the loop that owns the connection. It may be called from any
// goroutine.
func (c *Conn) Loop() *Loop { return c.loop }

// SetHandler makes h the one to be called, and has it called soon.
func (c *Conn) SetHandler(h Handler) {
	c.handler = h
	c.Wake()
}

// Wake has the handler called later in this turn, after those of the other
// connections.
func (c *Conn) Wake() {
	if !c.queued && !c.closed {
		c.queued = true
		c.loop.queue = append(c.loop.queue, c)
	}
}

// Read reads what has arrived. It returns ErrAgain if that is nothing, io.EOF at
// the end, os.ErrDeadlineExceeded after the deadline, ErrStalled, net.ErrClosed
// after Close or the group's, and else what happened to the connection, after
// everything that was received before.
func (c *Conn) Read(p []byte) (int, error) {
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.err != nil:
		return 0, c.err
	case c.late:
		return 0, os.ErrDeadlineExceeded
	case !c.readable:
		return 0, c.nothing()
	}
	n, err := c.sock.read(p)
	switch {
	case err != nil && errors.Is(err, errAgain):
		c.readable = false
		return 0, c.nothing()
	case err != nil:
		return 0, opError("read", err)
	case n == 0 && len(p) > 0:
		return 0, c.end()
	}
	if n < len(p) && !c.eager {
		c.readable = false // another arrival is another event
	}
	c.came += uint32(n) //nolint:gosec // G115: what fits in a buffer
	return n, nil
}

// nothing is the error of a read that found nothing.
func (c *Conn) nothing() error {
	if c.writeErr != nil {
		return c.writeErr
	}
	return ErrAgain
}

// end is the error of a read that found the end. After a reset that a write met
// first, the kernel calls it an end, too.
func (c *Conn) end() error {
	if c.writeErr != nil {
		return c.writeErr
	}
	return io.EOF
}

// brokenBy returns the error that the kernel reported, without a read.
func (c *Conn) brokenBy() error {
	if c.writeErr != nil {
		return c.writeErr
	}
	err := c.sock.error()
	if err == nil {
		err = syscall.ECONNRESET
	}
	return opError("read", err)
}

// Broken returns how the connection broke, if it is known to have, without a read; else nil. A
// handler that does not read may ask when it is called.
func (c *Conn) Broken() error {
	if c.closed || !c.broken {
		return nil
	}
	return c.brokenBy()
}

// Write sends p, at once or when the other connections have been read that there is something
// to read of. What the kernel does not take is kept and sent when it does. An error is
// final; what comes later is told by Read.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.writeError(); err != nil {
		return 0, err
	}
	switch {
	case len(p) == 0:
	case !c.writable || c.out.len > 0 || c.corked:
		c.keep(p)
	case c.loop.outbox.take(c, p):
	default:
		return c.give(p)
	}
	return len(p), nil
}

// give sends p and keeps what the kernel does not take. What was put off goes before it.
func (c *Conn) give(p []byte) (int, error) {
	if c.sendOff(); c.writeErr != nil {
		return 0, c.writeErr
	}
	sent := 0
	if c.writable && c.out.len == 0 {
		n, err := c.send(p)
		if err != nil {
			return n, err
		}
		sent = n
	}
	if sent < len(p) {
		c.keep(p[sent:])
	}
	return len(p), nil
}

// keep has p sent when the kernel takes it.
func (c *Conn) keep(p []byte) {
	c.out.push(&c.loop.group.chunks, p)
	c.block()
}

func (c *Conn) writeError() error {
	switch {
	case c.closed || c.closing:
		return net.ErrClosed
	case c.noWrite:
		return opError("write", syscall.EPIPE)
	case c.err != nil:
		return c.err
	default:
		return c.writeErr
	}
}

// send gives p to the kernel and returns how much it took.
func (c *Conn) send(p []byte) (int, error) {
	if !c.undelayed && c.sent {
		c.undelay()
	}
	c.sent = true
	n, err := c.sock.write(p)
	if err != nil {
		if !errors.Is(err, errAgain) {
			return 0, c.broke(opError("write", err))
		}
		n = 0
	}
	if n < len(p) {
		c.refused()
	}
	return n, nil
}

// undelay has the kernel send at once what is written while something before it is on its
// way. What is written first always goes at once, and to many connections that were dialled
// nothing more is written: they are spared a system call.
func (c *Conn) undelay() {
	c.undelayed = true
	_ = c.sock.noDelay() // of a broken one, which will tell
}

// broke notes the error of a write. There is no use for what is pending.
func (c *Conn) broke(err error) error {
	c.writeErr = err
	c.out.clear(&c.loop.group.chunks)
	c.blocked = 0
	c.readable, c.eager = true, true
	return err
}

// block notes that output waits from now on.
func (c *Conn) block() {
	if c.blocked == 0 {
		c.blocked = c.loop.now
		c.arm()
	}
}

// refused notes that the kernel takes no more.
func (c *Conn) refused() {
	c.writable, c.full = false, int32(c.sock.unacked()) //nolint:gosec // G115: what fits in a buffer
}

// stallLooks is how often within the time of a stall it is looked whether the peer takes some.
const stallLooks = 8

// takes notes whether the peer has taken output since the kernel took no more, or since the
// last look. The kernel tells of room only when there is much of it, for which a peer that is slow
// may need minutes.
func (c *Conn) takes() {
	before := c.full
	if c.full = int32(c.sock.unacked()); c.full < before { //nolint:gosec // G115: what fits in a buffer
		c.progress()
	}
}

// progress notes that the peer has taken output.
func (c *Conn) progress() { c.blocked = c.loop.now }

// Pending returns how many bytes were written that the kernel has not taken.
func (c *Conn) Pending() int { return c.out.len }

// cork gathers what is written until uncork.
func (c *Conn) cork() {
	c.sendOff()
	c.corked = true
}

// uncork sends what was gathered.
func (c *Conn) uncork() {
	c.corked = false
	if c.out.len > 0 && c.writable {
		c.flush()
	}
}

// flush sends what is pending as far as the kernel takes it.
func (c *Conn) flush() {
	for c.writable && c.out.len > 0 {
		n, err := c.send(c.out.front())
		if err != nil {
			return
		}
		if n > 0 {
			c.out.sent(&c.loop.group.chunks, n)
			c.progress()
		}
	}
	if c.out.len > 0 {
		return
	}
	c.blocked = 0
	if c.noWrite && !c.finSent {
		_ = c.sendFin() // noted in writeErr
	}
}

// CloseWrite ends the sending direction after what is pending.
func (c *Conn) CloseWrite() error {
	c.sendOff()
	if err := c.writeError(); err != nil {
		return err
	}
	c.noWrite = true
	if c.out.len > 0 {
		return nil
	}
	return c.sendFin()
}

func (c *Conn) sendFin() error {
	c.finSent = true
	if err := c.sock.shutdown(); err != nil {
		return c.broke(opError("shutdown", err))
	}
	return nil
}

// Close closes the connection in order; its handler is called no more. What is
// pending is sent first, by as long as the peer takes some within the time of
// SetStall (10 s without). What the peer has sent and nobody has read makes the
// kernel reset the connection: who wants the peer to see the end calls CloseWrite
// and reads until io.EOF.
func (c *Conn) Close() error {
	if c.closed || c.closing {
		return nil
	}
	c.sendOff()
	c.handler = nil
	c.deadline, c.awaits = 0, false
	if c.out.len == 0 || c.err != nil {
		return c.destroy(c.out.len > 0 || errors.Is(c.err, ErrStalled))
	}
	c.closing = true
	if c.stall == 0 {
		c.SetStall(closeStall)
	}
	return nil
}

// AnswerTime is how long a peer has to end its side after it has got all that it was sent,
// if Options do not say otherwise.
const AnswerTime = 2 * time.Second

// lookAgain is how often it is looked whether a peer has got all.
const lookAgain = 50 * time.Millisecond

// Await has reading end with os.ErrDeadlineExceeded when the peer was sent the last that there
// is for it, and does not end its side: AnswerTime after it has acknowledged all, however slow
// it is to do so. If it acknowledges nothing for the time of SetStall (10 s without), reading
// ends with ErrStalled. To close the connection before may make the kernel reset it, because
// of what the peer still sends, and what is not acknowledged then is lost.
func (c *Conn) Await() {
	if c.closed {
		return
	}
	if c.stall == 0 {
		c.stall = int64(closeStall)
	}
	c.late, c.awaits, c.left = false, true, math.MaxInt64
	c.look()
	c.arm()
}

// look sets the deadline of a peer that may not have got all.
func (c *Conn) look() {
	c.sendOff()
	now, left := c.loop.now, int64(c.out.len+c.sock.unacked())
	switch {
	case left == 0:
		c.awaits, c.blocked = false, 0
		c.deadline = now + c.loop.group.answerTime()
		return
	case left < c.left || c.blocked == 0:
		c.progress()
	}
	c.left, c.deadline = left, now+int64(lookAgain)
}

// Linger is Close for what the peer must not miss: it ends the sending side, and drops what
// comes until the peer has ended its own, or has had its time; see Await. Who has let a deadline
// pass that is still set has had it. over is called when the connection is closed, unless it is nil,
// or Reset does that.
func (c *Conn) Linger(over func()) {
	had := c.late
	l := lingering{over}
	if c.closed || had || (!c.noWrite && c.CloseWrite() != nil) {
		l.end(c)
		return
	}
	c.SetHandler(l)
	c.Await()
}

// lingering is the handler of a connection that lingers.
type lingering struct{ over func() }

// Ready drops what has come.
func (l lingering) Ready(c *Conn) {
	for range turnBytes / scratchSize {
		if _, err := c.Read(c.loop.scratch); err != nil {
			if !errors.Is(err, ErrAgain) {
				l.end(c)
			}
			return
		}
	}
	c.Wake()
}

func (l lingering) end(c *Conn) {
	_ = c.Close()
	if l.over != nil {
		l.over()
	}
}

// Reset closes the connection at once, with a RST; what is pending is dropped.
func (c *Conn) Reset() error {
	if c.closed {
		return nil
	}
	return c.destroy(true)
}

func (c *Conn) destroy(reset bool) error {
	c.closed, c.handler = true, nil
	c.out.clear(&c.loop.group.chunks)
	c.loop.remove(c)
	return c.sock.close(reset)
}

// abandon ends the connection because the group is closed.
func (c *Conn) abandon() {
	if !c.closing && c.err == nil {
		c.err = net.ErrClosed
		c.call()
	}
	if !c.closed {
		_ = c.destroy(false)
	}
}

// SetReadDeadline sets when reading ends with os.ErrDeadlineExceeded, to the tick
// of the loop. Zero takes it away. The handler is called when it has passed.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.closed {
		return net.ErrClosed
	}
	c.late, c.awaits, c.deadline = false, false, 0
	if !t.IsZero() {
		c.deadline = max(int64(t.Sub(c.loop.group.start)), 1)
		if c.deadline <= c.loop.now {
			c.late = true
			c.Wake()
			return nil
		}
		c.arm()
	}
	return nil
}

// SetReadTimeout is SetReadDeadline for d after this turn began, which spares a look at
// the clock. d is more than 0.
func (c *Conn) SetReadTimeout(d time.Duration) {
	if !c.closed {
		c.late, c.awaits, c.deadline = false, false, c.loop.now+int64(d)
		c.arm()
	}
}

// SetDeadline is SetReadDeadline.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing, since Write does not block. SetStall is what
// bounds how long output may wait.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// SetStall sets for how long output may wait without the peer taking any, before
// reading and writing end with ErrStalled. Zero takes the limit away.
func (c *Conn) SetStall(d time.Duration) {
	c.stall = int64(d)
	c.arm()
}

// arm sees to it that the timer fires in time.
func (c *Conn) arm() {
	when := c.deadline
	if c.late {
		when = 0
	}
	if c.blocked != 0 && c.stall != 0 {
		look := min(c.blocked+c.stall, c.loop.now+c.stall/stallLooks)
		if when == 0 || look < when {
			when = look
		}
	}
	if when != 0 && (!c.timer.armed() || when < c.timer.when) {
		c.loop.wheel.set(&c.timer, when)
	}
}

// expire is called by the wheel at the deadline, or before.
func (c *Conn) expire() {
	now := c.loop.now
	if c.awaits {
		c.look()
	} else if c.blocked != 0 {
		c.takes()
	}
	switch {
	case c.blocked != 0 && c.stall != 0 && now-c.blocked >= c.stall:
		c.err, c.blocked, c.awaits = ErrStalled, 0, false
	case c.deadline != 0 && !c.late && now >= c.deadline:
		c.late = true
	default:
		c.arm()
		return
	}
	c.arm()
	c.call()
}

// What poll knows about a socket.
const (
	canRead  = 1 << iota // bytes or the end have arrived
	canWrite             // there is room for output
	isEager              // the end or something else that a short read may hide
	isBroken             // an error is pending
)

// event is called when the state of the socket has changed.
func (c *Conn) event(what int) {
	if what&(canRead|isBroken) != 0 {
		c.readable = true
	}
	if what&(isEager|isBroken) != 0 {
		c.eager = true
	}
	if what&isBroken != 0 {
		c.broken = true
	}
	call := what&(canRead|isBroken) != 0
	if what&canWrite != 0 && !c.writable {
		c.writable = true
		c.flush()
		call = call || c.out.len == 0
	}
	if call {
		c.call()
	}
}

// woken is called for a connection that was queued.
func (c *Conn) woken() {
	if !c.closed {
		c.call()
	}
}

// call lets the handler look at the connection.
func (c *Conn) call() {
	switch {
	case c.connecting:
		c.connected()
	case c.closing:
		if c.out.len == 0 || c.err != nil {
			_ = c.destroy(c.out.len > 0)
		}
	case c.handler != nil:
		c.loop.current = c
		c.handler.Ready(c)
		c.loop.current = nil
	}
}

// Target is what a Dialer wants to be connected to.
type Target struct {
	From    []netip.Addr // the connection comes from one of them; see [Sources]
	Addr    netip.AddrPort
	Timeout time.Duration // 0 for none
	Speaks  bool          // something is written as soon as it is connected
}

// Dialer is who has a connection made. It is the connection's handler meanwhile, to which
// there is nothing to say: Ready is not called.
type Dialer interface {
	Handler
	// Dialled is called with the connection, which has no handler then, or with what went
	// wrong: os.ErrDeadlineExceeded after the timeout.
	Dialled(c *Conn, err error)
}

// DialFunc makes a Dialer of a function.
type DialFunc func(c *Conn, err error)

// Ready does nothing.
func (DialFunc) Ready(*Conn) {}

// Dialled calls the function.
func (f DialFunc) Dialled(c *Conn, err error) { f(c, err) }

// connected ends the making of a connection, well or not.
func (c *Conn) connected() {
	err := c.err
	switch {
	case err != nil:
	case c.late:
		err = os.ErrDeadlineExceeded
	case c.writeErr != nil:
		err = c.writeErr
	case c.broken:
		err = c.sock.error()
	case !c.writable:
		return // not yet
	}
	d, ok := c.handler.(Dialer)
	if !ok {
		return
	}
	c.connecting, c.handler, c.deadline, c.late = false, nil, 0, false
	if err != nil {
		_ = c.destroy(true)
		c.loop.dialled(d, nil, opError("dial", err))
		return
	}
	c.loop.dialled(d, c, nil)
}

// Detach takes the connection off its loop and returns it as one of the net package,
// together with what was written and not sent. It is its caller's then; the handler
// is called no more. See [CanDetach].
func (c *Conn) Detach() (tcp *net.TCPConn, unsent []byte, err error) {
	if c.closed || c.closing {
		return nil, nil, net.ErrClosed
	}
	c.sendOff()
	if tcp, err = c.sock.netConn(); err != nil {
		return nil, nil, err
	}
	for c.out.len > 0 {
		front := c.out.front()
		unsent = append(unsent, front...)
		c.out.sent(&c.loop.group.chunks, len(front))
	}
	c.loop.poll.remove(c)
	return tcp, unsent, c.destroy(false)
}
