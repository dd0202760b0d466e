// Package loop carries the bytes of sessions, event-driven: a few goroutines own
// all connections, and a session that is idle holds its descriptors and some
// hundred bytes, but no goroutine and no buffer.
//
// # Loops
//
// A [Group] runs N loops. A [Loop] is one goroutine with its own epoll instance,
// timer wheel and inbox. A [Conn] lives on one loop for good, and everything about
// it happens there: handlers, timers and callbacks need no locks, and must not
// block. Code that runs elsewhere reaches a loop through [Loop.Post].
//
// What may be called from any goroutine says so. Everything else in this package
// is for the goroutine of the loop, that is for handlers, for the callbacks of
// this package, and for posted functions.
//
// # Connections
//
// A Conn is a [net.Conn] that never blocks. Read returns [ErrAgain] when the
// kernel has nothing; Write takes everything, and what the kernel does not take is
// sent later. Who writes looks at Pending, and reads no more from the other side
// while it is not zero: that is back-pressure, and bounds what is held. A [Handler]
// is called when there may be something to do:
//
//	func (h *greeter) Ready(c *loop.Conn) {
//		for {
//			n, err := c.Read(c.Loop().Scratch())
//			switch {
//			case errors.Is(err, loop.ErrAgain):
//				return // Ready is called when there is more
//			case err != nil: // io.EOF, os.ErrDeadlineExceeded, loop.ErrStalled, ECONNRESET …
//				c.Close()
//				return
//			}
//			h.look(c, c.Loop().Scratch()[:n])
//		}
//	}
//
// ErrAgain is a temporary [net.Error], which crypto/tls lets pass without harm: a
// *tls.Conn whose handshake is over works on a Conn as it does on any net.Conn,
// and holds no goroutine.
//
// # Sessions
//
// A [Relay] joins two ends, each a Conn or a [Stream] on one, until both directions
// have ended, and says once how that came. It behaves as a direct connection would:
// half-close and reset are passed on, in both directions, and so is back-pressure.
//
// [Relay.Drain] ends one in order when there is a pause in it, and lets it go on until then: to
// end it in the middle of what a side says would pass the beginning of that off as all of it.
// [Relay.Abort] ends one at once, and both sides see that it broke.
//
// # Other systems
//
// Where there is no epoll (and with the build tag imlb_portable) the same API works
// on goroutines, which costs what they cost. DESIGN.md tells why the Linux side is
// built as it is, with the measurements.
package loop
