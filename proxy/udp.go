package proxy

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/proxy/secrets"
)

// udpSocket is the socket of a QUIC listener. All connections of a listener go
// through it as long as they live, so one that is removed keeps it, and one that
// is added meanwhile on the same address has to share it.
type udpSocket struct {
	name      string // Listener.socket
	conn      *udpConn
	transport *quic.Transport
	closed    chan struct{} // closed when the address is free again
	users     int           // listeners; guarded by udpSockets.mu
}

// udpSockets are the UDP sockets of a front, one for each address. Several with
// SO_REUSEPORT would share the reading, but the kernel picks one by the client's
// address, so a client that moves arrives at a socket that does not know it. Two
// gained nothing here: with 64 connections on 2 cores, 33–45 µs of CPU for a round
// trip of 64 bytes with one socket and 30–45 with two, and 665–843 against 657–809
// for one of 64 KiB. One socket is one reader; the connections run on all cores.
type udpSockets struct {
	generation uint32                       // of this process, in connection ids
	keys       atomic.Pointer[secrets.Keys] // of QUIC; never nil
	hold       time.Duration                // rekeyHold

	mu   sync.Mutex
	open map[string]*udpSocket // by name
}

// newUDPSockets has keys that nobody else knows.
func newUDPSockets() *udpSockets {
	t := &udpSockets{open: make(map[string]*udpSocket), hold: rekeyHold}
	var generation [4]byte
	var keys secrets.Keys
	for _, b := range [][]byte{generation[:], keys.Token[:], keys.Reset[:], keys.ConnectionID[:]} {
		_, _ = rand.Read(b) // never fails
	}
	t.generation = binary.BigEndian.Uint32(generation[:])
	t.keys.Store(&keys)
	return t
}

// get returns the socket for a listener, and opens it if need be. It must not be
// called twice at a time.
func (t *udpSockets) get(ctx context.Context, l *listener) (*udpSocket, error) {
	if u, err := t.share(ctx, l.socket); u != nil || err != nil {
		return u, err
	}
	terms, keys := l.terms.Load(), t.keys.Load()
	ids, err := newConnIDs(keys.ConnectionID, origin{frontID(terms.Front), t.generation})
	if err != nil {
		return nil, err
	}
	conn, err := listenUDP(ctx, terms.listener.Address, ids, keys.Reset, l.srv.log)
	if err != nil {
		return nil, err
	}
	u := &udpSocket{name: l.socket, conn: conn, closed: make(chan struct{}), users: 1}
	reset := quic.StatelessResetKey(keys.Reset)
	u.transport = &quic.Transport{
		Conn:                  conn,
		ConnectionIDGenerator: ids,
		StatelessResetKey:     &reset,
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[u.name] = u
	return u, nil
}

// share returns the socket of that name, or nil if there is none. One that is
// being closed is waited for.
func (t *udpSockets) share(ctx context.Context, name string) (*udpSocket, error) {
	t.mu.Lock()
	u := t.open[name]
	closing := u != nil && u.users == 0
	if u != nil && !closing {
		u.users++
	}
	t.mu.Unlock()
	if !closing {
		return u, nil
	}
	select {
	case <-u.closed:
		return nil, nil //nolint:nilnil // none is an answer
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// put gives a socket back that get has returned. The last one closes it, with all
// its connections.
func (t *udpSockets) put(u *udpSocket) error {
	t.mu.Lock()
	u.users--
	last := u.users == 0
	t.mu.Unlock()
	if !last {
		return nil
	}
	// The transport does not close a socket that it was given.
	err := errors.Join(u.transport.Close(), u.conn.Close())
	t.mu.Lock()
	delete(t.open, u.name)
	t.mu.Unlock()
	close(u.closed)
	return err
}
