package proxy

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"imlb/proxy/loop"
	"imlb/proxy/ws"
)

// pump carries the bytes of an opaque session whose transport has no descriptor of its
// own, like a stream of a QUIC connection, or has to be waited for, like a WebSocket with
// compressed messages. Two goroutines work, one for each direction, until both have ended.
// It behaves as a direct connection would: the end of one side is passed on when all bytes
// before it have been, a side that breaks breaks the other, and nothing is read that cannot
// be written.
type pump struct {
	client, node pumpEnd
	limits       pumpLimits
	late         func(client bool) *ending // what it means that a limit has struck after the end of one side
	unanswered   func() *ending            // what it means that the node's end was watched for too long
	begun        func(carrier)             // is told when the pump can be drained and aborted

	halt, deafen context.CancelFunc // end the pauses of both directions, and of that from the node

	up, down atomic.Int64 // bytes read from the client, and from the node
	last     atomic.Int64 // when some came, or a ping, or an end, in ns after start
	stopping atomic.Bool  // stop was called
	draining atomic.Bool  // Drain was called
	told     atomic.Bool  // and the client is told that the session ends

	stuck atomic.Int32 // directions that have read what is not written yet, or that pause

	start time.Time // of run

	mu    sync.Mutex  // held while a side is watched, too
	cause *ending     // the first end that was seen
	ended *pumpEnd    // the side of which that was in order; nil for none
	both  bool        // and then the other's
	timer *time.Timer // of idle; nil for none
	done  bool        // both directions have ended
}

// pumpEnd is one side.
type pumpEnd struct {
	halfCloser
	pause func(n int) time.Duration             // after n bytes were read from it; nil: none
	gone  func(err error) *ending               // what an error in reading means, io.EOF too
	slow  Reason                                // when it does not take what is written
	watch func(p []byte) (more bool, err error) // sees what is first read from it; nil: nothing
	shut  func(*ending) error                   // says that nothing follows, and why; nil: CloseWrite
	part  func(*ending)                         // says good-bye before the end is closed; nil: nothing to say
	hush  func() error                          // ends that
	parts bool                                  // when it ends it hears no more, like a WebSocket
}

// pumpLimits bound how long a pump waits; zero does not.
type pumpLimits struct {
	idle     time.Duration // without a byte either way
	halfOpen time.Duration // without a byte after one side has ended
	pause    time.Duration // without a byte before a drained session ends
	write    time.Duration // for what is written to be taken
	watch    time.Duration // for the node to be watched
}

// run carries until both directions have ended. Both ends are closed then.
func (p *pump) run(ctx context.Context) *ending {
	ctx, p.halt = context.WithCancel(context.WithoutCancel(ctx)) // the end of the front's is for Drain
	defer p.halt()
	var hearing context.Context
	hearing, p.deafen = context.WithCancel(ctx)
	p.start = time.Now()
	p.watch()
	if p.node.watch != nil && p.limits.watch > 0 {
		defer time.AfterFunc(p.limits.watch, p.watchedLong).Stop()
	}
	p.begun(p)
	up := make(chan struct{})
	go func() {
		defer close(up)
		p.carry(ctx, &p.client, &p.node, &p.up)
	}()
	p.carry(hearing, &p.node, &p.client, &p.down)
	<-up
	p.settle(ctx)
	cause := p.finish()
	_ = p.node.Close()
	if p.client.part != nil {
		p.client.part(cause)
	}
	_ = p.client.Close()
	return cause
}

// settle waits until the node has got all that the client of a drained session has said. What the node
// says itself is read by nobody, for which there is a reset when its connection is closed: that drops
// what it has not got. It may take nothing for as long as a node that is slow.
func (p *pump) settle(ctx context.Context) {
	conn := tcpOf(p.node.halfCloser)
	if conn == nil || !p.told.Load() {
		return
	}
	left, moved := math.MaxInt, time.Now()
	for look := time.Millisecond; !p.stopping.Load(); look = min(2*look, lookAgain) {
		switch n := loop.Unacked(conn); {
		case n == 0:
			return
		case n < left:
			left, moved = n, time.Now()
		case time.Since(moved) >= max(p.limits.write, lingerTime):
			return
		}
		_ = pause(ctx, look) // which ends with the pump
	}
}

// tcpOf returns the TCP connection beneath another; nil if there is none that the kernel ends by itself.
func tcpOf(conn net.Conn) *net.TCPConn {
	switch c := conn.(type) {
	case *net.TCPConn:
		return c
	case *wire:
		return tcpOf(c.Conn)
	case interface{ NetConn() net.Conn }: // *tls.Conn
		return tcpOf(c.NetConn())
	default:
		return nil
	}
}

// Drain ends the pump at its next pause, in order, because the front stops; see
// [loop.Relay.Drain].
func (p *pump) Drain() {
	p.mu.Lock()
	over := p.done || p.both || p.stopping.Load() || p.draining.Swap(true)
	ended := p.ended
	if !over && ended != nil {
		p.cause = &ending{reason: ReasonShutdown}
	}
	p.mu.Unlock()
	switch {
	case over:
	case ended == nil:
		p.idle()
	case p.parted(ended):
		p.conclude()
	}
}

// parted tells whether a side that has ended is a client that does not hear any more what the
// node still says.
func (p *pump) parted(ended *pumpEnd) bool { return ended == &p.client && p.client.parts }

// conclude tells the client of a drained pump that the session ends.
func (p *pump) conclude() {
	p.mu.Lock()
	over := p.done || p.both || p.ended != nil && !p.parted(p.ended) || p.told.Swap(true)
	if !over {
		p.cause = &ending{reason: ReasonShutdown}
		if p.timer != nil {
			p.timer.Stop()
		}
		if p.limits.halfOpen > 0 {
			p.timer = time.AfterFunc(p.limits.halfOpen, p.cutOff)
		}
	}
	p.mu.Unlock()
	if !over {
		p.deafen()
		_ = p.node.SetReadDeadline(past)
	}
}

// cutOff ends a pump of which the client was told, and that has had its time. Who waits for
// the other side must not take what it has got for all.
func (p *pump) cutOff() {
	p.mu.Lock()
	ended, over := p.ended, p.both || p.done
	p.mu.Unlock()
	if over {
		return
	}
	if ended != &p.client {
		ended = &p.node
	}
	breakOff(ended.halfCloser)
	p.end(&ending{reason: ReasonShutdown})
}

// Abort ends the pump at once. Both sides see it break.
func (p *pump) Abort(err error) { p.End(&ending{reason: ReasonShutdown, cause: err}) }

// End is Abort for another reason.
func (p *pump) End(e *ending) {
	p.mu.Lock()
	over := p.done
	if !over {
		p.cause = e
	}
	p.mu.Unlock()
	if over {
		_ = p.client.hush() // which may be waited for
		return
	}
	if !p.client.parts { // else it may be told, if it takes what it is sent
		breakOff(p.client.halfCloser)
	}
	breakOff(p.node.halfCloser)
	p.end(e)
}

// Bytes returns how many bytes have come from the client and from the node so far. It
// may be called from any goroutine.
func (p *pump) Bytes() (up, down int64) { return p.up.Load(), p.down.Load() }

// finish ends the watch, and returns why the pump has ended.
func (p *pump) finish() *ending {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	if p.timer != nil {
		p.timer.Stop()
	}
	return p.cause
}

// carry copies one direction to its end, and passes that on.
func (p *pump) carry(ctx context.Context, from, to *pumpEnd, count *atomic.Int64) {
	e := guard(func() *ending { return p.copy(ctx, from, to, count) })
	switch {
	case e == nil: // whoever stopped the pump has said why
		return
	case e.cause != nil:
		p.end(e)
		return
	}
	p.half(from, e)
	if err := to.end(e); err != nil {
		if e := p.writeError(to, err); e != nil {
			p.end(e)
		}
	}
}

// copy copies until from ends, or returns nil when the pump was stopped.
func (p *pump) copy(ctx context.Context, from, to *pumpEnd, count *atomic.Int64) *ending {
	buf := newPumpBuffer()
	defer buf.free()
	for {
		n, err := from.Read(buf.bytes())
		if n > 0 || err == nil { // a ping of a WebSocket brings no bytes, but is life
			p.touch()
		}
		if n > 0 {
			count.Add(int64(n))
			if err := p.see(from, buf.bytes()[:n]); err != nil {
				return p.refuse(to, err)
			}
			p.stuck.Add(1)
			err := p.write(to, buf.bytes()[:n])
			if err == nil && from.pause != nil {
				_ = pause(ctx, from.pause(n)) // when ctx ends the deadlines have passed
			}
			p.touch() // until now nothing could come
			p.stuck.Add(-1)
			if errors.Is(err, ws.ErrClosed) {
				p.discard(from)
				return nil
			} else if err != nil {
				return p.writeError(to, err)
			}
			buf.fit(n)
		} else if err == nil && from.pause != nil {
			_ = pause(ctx, from.pause(0)) // what came besides may be too much
		}
		switch {
		case err == nil:
		case isTimeout(err) && p.stopping.Load():
			return nil
		case isTimeout(err) && p.told.Load() && from == &p.node:
			return &ending{reason: ReasonShutdown}
		default:
			return from.gone(err)
		}
	}
}

// end says to the side that nothing follows.
func (e *pumpEnd) end(why *ending) error {
	if e.shut != nil {
		return e.shut(why)
	}
	return e.CloseWrite()
}

// see lets who watches an end see what was read from it.
func (p *pump) see(from *pumpEnd, b []byte) error {
	if from.watch == nil { // nobody does, or any more, which is for this goroutine to say
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping.Load() {
		return nil
	}
	more, err := from.watch(b)
	if !more {
		from.watch = nil
	}
	return err
}

// refuse makes an ending of what was seen, of which the client may get an answer.
func (p *pump) refuse(client *pumpEnd, err error) *ending {
	e := asEnding(err)
	if no := (*loop.Refusal)(nil); errors.As(err, &no) {
		e.answered = p.write(client, no.Answer) == nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopping.Load() {
		p.cause = e // also where the client has ended its side
	}
	return e
}

// watchedLong ends the pump if the node has still to be watched.
func (p *pump) watchedLong() {
	p.mu.Lock()
	over := p.node.watch == nil || p.done || p.draining.Load()
	if !over {
		p.cause = p.unanswered()
		p.stopping.Store(true) // nothing is seen any more
	}
	e := p.cause
	p.mu.Unlock()
	if !over {
		p.end(e)
	}
}

// write writes all of b. The deadline is for that alone: what answers for to while it
// is read, like a pong, comes later.
func (p *pump) write(to *pumpEnd, b []byte) error {
	if p.limits.write > 0 {
		_ = to.SetWriteDeadline(time.Now().Add(p.limits.write)) // or it is closed, and Write says so
	}
	if p.stopping.Load() { // its deadline may have come before
		return os.ErrDeadlineExceeded
	}
	if _, err := to.Write(b); err != nil {
		return err
	}
	_ = to.SetWriteDeadline(time.Time{}) // who has got all may have closed it
	return nil
}

// discard reads off what a side still says to one that has ended its WebSocket: if that
// stayed unread, the side would get a reset, which may overtake what it was sent last.
func (p *pump) discard(from *pumpEnd) {
	_ = from.SetReadDeadline(time.Now().Add(lingerTime))
	if p.stopping.Load() { // its deadline may have come before
		return
	}
	_, _ = io.Copy(io.Discard, from)
}

// writeError makes an ending of an error in writing, or returns nil when the pump was
// stopped. Who did not get all must not take what it got for all.
func (p *pump) writeError(to *pumpEnd, err error) *ending {
	switch {
	case isTimeout(err) && p.stopping.Load():
		breakOff(to.halfCloser)
		return nil
	case isTimeout(err):
		return &ending{reason: to.slow, cause: err}
	}
	e := to.gone(err)
	if e.cause == nil {
		e.cause = err
	}
	return e
}

// end notes why the pump ends, unless that is known, and stops both directions.
func (p *pump) end(e *ending) {
	p.mu.Lock()
	if p.cause == nil || errors.Is(e.cause, loop.ErrStalled) { // the client did not take the last of it
		p.cause = e
	}
	p.mu.Unlock()
	p.stop(e)
}

// half notes that a side has ended in order. The other may go on.
func (p *pump) half(from *pumpEnd, e *ending) {
	p.mu.Lock()
	if p.cause == nil {
		p.cause = e
	}
	p.ended, p.both = from, p.ended != nil
	p.mu.Unlock()
	p.touch() // the other has all the time from now on
	if p.draining.Load() && p.parted(from) {
		p.conclude()
	}
	p.watch()
}

// halfLimited tells whether a half-open session has another limit than one that is open.
func (p *pump) halfLimited() bool {
	return p.limits.halfOpen > 0 && (p.limits.idle <= 0 || p.limits.halfOpen < p.limits.idle)
}

// stop wakes both directions. A side that broke is passed on as a break, and so is one
// that did not take what it was sent.
func (p *pump) stop(e *ending) {
	p.stopping.Store(true)
	p.halt()
	switch e.reason {
	case ReasonShutdown, ReasonIdle, ReasonHalfOpen, ReasonIdentifyTimeout, ReasonAuthFailed, ReasonEndedByAdmin: // see idle, and End
	default:
		if !e.answered {
			breakOff(p.client.halfCloser)
			breakOff(p.node.halfCloser)
		}
	}
	_ = p.client.SetDeadline(past)
	_ = p.node.SetDeadline(past)
}

// touch notes that something has come.
func (p *pump) touch() { p.last.Store(int64(time.Since(p.start))) }

// watch has idle called when no byte has come for as long as none need come.
func (p *pump) watch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := p.patience()
	left := max(limit-p.quiet(), 0)
	switch {
	case limit <= 0 || p.done || p.told.Load(): // which has a timer of its own
	case p.timer == nil:
		p.timer = time.AfterFunc(left, p.idle)
	default:
		p.timer.Reset(left)
	}
}

// patience returns for how long no byte need come; zero is for ever. p.mu is held.
func (p *pump) patience() time.Duration {
	switch {
	case p.ended == nil && p.draining.Load():
		return p.limits.pause
	case p.ended != nil && p.halfLimited():
		return p.limits.halfOpen
	default:
		return p.limits.idle
	}
}

// quiet returns for how long no byte has come. Nothing can come from a side that is not read,
// because the other takes nothing, for which there is another limit, or because of those on
// bytes.
func (p *pump) quiet() time.Duration {
	if p.stuck.Load() > 0 {
		p.touch()
	}
	return time.Since(p.start) - time.Duration(p.last.Load())
}

// idle ends the pump if no byte has come for long enough. A side that has ended is cut
// off while it waits for the other, so it must not take what it has got for all.
func (p *pump) idle() {
	p.mu.Lock()
	ended, over, draining := p.ended, p.both || p.done || p.told.Load(), p.draining.Load()
	limit, quiet := p.patience(), p.quiet()
	p.mu.Unlock()
	switch {
	case over:
		return
	case quiet < limit:
		p.watch()
		return
	case ended == nil && draining:
		p.conclude()
		return
	case limit <= 0: // any more
		return
	}
	e := &ending{reason: ReasonIdle}
	if ended != nil {
		if draining {
			e = &ending{reason: ReasonShutdown}
		} else if p.halfLimited() {
			e = p.late(ended == &p.client)
		}
		p.mu.Lock()
		p.cause = e
		p.mu.Unlock()
		breakOff(ended.halfCloser)
	}
	p.end(e)
}

// breakOff ends a TCP connection with a reset. It does so at once: what is said on the
// way to an end in order, like the close_notify of TLS, would be believed.
func breakOff(conn net.Conn) {
	switch c := conn.(type) {
	case *net.TCPConn:
		_ = c.SetLinger(0)
		_ = c.Close()
	case *quicConn: // of which Close alone would be an end in order
		c.CancelWrite(quicCutOff)
	case *wire:
		breakOff(c.Conn)
	case interface{ NetConn() net.Conn }: // *tls.Conn
		breakOff(c.NetConn())
	}
}

// pumpBuffer is what one direction reads into: small while little comes.
type pumpBuffer struct {
	small *[chunk]byte
	large []byte
}

// pumpLarge is what a direction reads into that fills the small buffer.
const pumpLarge = 32 << 10

//nolint:gochecknoglobals // buffers are shared by all sessions of the process
var largeBuffers = sync.Pool{New: func() any { return new([pumpLarge]byte) }}

func newPumpBuffer() *pumpBuffer { return &pumpBuffer{small: getChunk()} }

func (b *pumpBuffer) bytes() []byte {
	if b.large != nil {
		return b.large
	}
	return b.small[:]
}

// fit takes a larger buffer after a read that filled the small one, and gives it
// back after one that would not have.
func (b *pumpBuffer) fit(n int) {
	switch {
	case b.large == nil && n == chunk:
		if l, ok := largeBuffers.Get().(*[pumpLarge]byte); ok {
			b.large = l[:]
		}
	case b.large != nil && n < chunk:
		b.freeLarge()
	}
}

func (b *pumpBuffer) freeLarge() {
	if b.large != nil {
		largeBuffers.Put((*[pumpLarge]byte)(b.large))
		b.large = nil
	}
}

func (b *pumpBuffer) free() {
	b.freeLarge()
	chunks.Put(b.small)
}
