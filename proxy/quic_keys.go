package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"imlb/proxy/secrets"
)

// Before a change of QUIC's keys no handshake begins until those under way have
// ended. That is asked again and again: one that was let in may still be on its way to
// quic-go, and the busier the machine, the longer.
const (
	rekeyLook  = 20 * time.Millisecond
	rekeyLooks = 25              // that have to find none, one after the other
	rekeyHold  = 2 * time.Second // at most: those of clients that are gone take longer to end
)

// SetKeys makes the front work with keys that it shares with others, from Listen on
// or later. Without it session tickets have keys of this process that crypto/tls
// rotates, and so has QUIC, for as long as the process lives.
//
//   - Session tickets are encrypted with the first key from now on, and decrypted
//     with all of them.
//   - A new token key is put into use without touching a connection. quic-go takes it
//     with a new listener only, on the same transport. Since closing the old one
//     refuses handshakes under way, first no new one is let in until those have
//     ended, for half a second and up to two: their first packets are dropped, and
//     come again. Tokens made with the key before count as none: their owners have
//     to answer a Retry again, when there is need of one.
//   - The reset and connection id keys do not rotate. When they are others, as when a
//     front that began on its own learns those of its cluster, they count for new
//     connections from then on, in the same way. The peers of those that stand were told
//     of the keys before, which stay theirs.
//
// ctx bounds the wait for another change that runs.
func (s *Server) SetKeys(ctx context.Context, keys secrets.Keys) error {
	if len(keys.Tickets) == 0 {
		return errors.New("proxy: there are no keys")
	}
	if err := s.beginChange(ctx); err != nil {
		return err
	}
	defer s.endChange()
	s.tickets.SetSessionTicketKeys(keys.Tickets)
	before := s.udp.keys.Swap(&keys)
	if before.Token == keys.Token && before.Reset == keys.Reset && before.ConnectionID == keys.ConnectionID {
		return nil
	}
	return s.rekey(ctx)
}

// rekey gives all QUIC listeners the keys of the time.
func (s *Server) rekey(ctx context.Context) error {
	var open []*quicListener
	for _, l := range s.open() {
		if l.quic != nil {
			open = append(open, l.quic)
			conn := l.quic.socket.now.conn
			conn.hold.Store(true)
			defer conn.hold.Store(false)
		}
	}
	if len(open) == 0 {
		return nil
	}
	awaitHandshakes(ctx, open, s.udp.hold)
	var errs []error
	for _, q := range open {
		if err := q.rekey(); err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", q.name(), err))
		}
	}
	return errors.Join(errs...)
}

// awaitHandshakes waits until no handshakes are under way on listeners on which none
// begin. When there are some after that time, or at the end of ctx, they will be refused.
func awaitHandshakes(ctx context.Context, open []*quicListener, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for none := 0; none < rekeyLooks; none++ {
		if pause(ctx, rekeyLook) != nil {
			return
		}
		if slices.ContainsFunc(open, func(q *quicListener) bool { return q.arrivals.underWay() > 0 }) {
			none = -1
		}
	}
}
