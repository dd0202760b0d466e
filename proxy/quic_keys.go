package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imlb/proxy/secrets"
)

// rekeyHold is how long no QUIC handshake begins before a change of the token key,
// so that those under way can end.
const rekeyHold = 500 * time.Millisecond

// SetKeys makes the front work with keys that it shares with others, from Listen on
// or later. Without it session tickets have keys of this process that crypto/tls
// rotates, and so has QUIC, for as long as the process lives.
//
//   - Session tickets are encrypted with the first key from now on, and decrypted
//     with all of them.
//   - A new token key is put into use without touching a connection. quic-go takes it
//     with a new listener only, on the same transport. Since closing the old one
//     refuses handshakes under way, first no new one is let in for half a second:
//     their first packets are dropped, and come again. Tokens made with the key
//     before count as none: their owners have to answer a Retry again, when there
//     is need of one.
//   - The reset and connection id keys stay those that a socket was opened with: the
//     peers of its connections were told of them. They do not rotate, so a difference
//     is an operator's doing, and counts from the next start on.
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
	if before.Token == keys.Token {
		return nil
	}
	return s.rekey(ctx)
}

// rekey gives all QUIC listeners the token key of the time.
func (s *Server) rekey(ctx context.Context) error {
	var open []*quicListener
	for _, l := range s.open() {
		if l.quic != nil {
			open = append(open, l.quic)
			l.quic.socket.conn.hold.Store(true)
			defer l.quic.socket.conn.hold.Store(false)
		}
	}
	if len(open) == 0 {
		return nil
	}
	_ = pause(ctx, rekeyHold) // in a hurry some handshakes are refused
	var errs []error
	for _, q := range open {
		if err := q.rekey(); err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", q.name(), err))
		}
	}
	return errors.Join(errs...)
}
