//go:build !386 && !s390x && !imlb_portable

package loop

// Bell returns the descriptor that wakes the loop.
func (l *Loop) Bell() int { return l.poll.eventfd }

// Ring does what is left of a Post when the loop has seen it.
func (l *Loop) Ring() { l.poll.wake() }

// Listeners returns on how many listeners the loop accepts.
func (l *Loop) Listeners() int { return len(l.poll.listeners) }

// CloseSending has the kernel refuse to send, of which only a write learns.
func (c *Conn) CloseSending() error { return c.sock.shutdown() }
