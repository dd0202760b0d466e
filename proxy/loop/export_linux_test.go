//go:build !386 && !s390x && !imlb_portable

package loop

// Listeners returns on how many listeners the loop accepts.
func (l *Loop) Listeners() int { return len(l.poll.listeners) }

// CloseSending has the kernel refuse to send, of which only a write learns.
func (c *Conn) CloseSending() error { return c.sock.shutdown() }
