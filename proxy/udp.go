package proxy

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
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
	name   string // Listener.socket
	udp    *net.UDPConn
	now    *transport    // of new connections; changed by who may change the server
	before []*transport  // of those that live on with the keys of before
	closed chan struct{} // closed when the address is free again
	users  int           // listeners; guarded by udpSockets.mu
}

// maxTransports is how many pairs of keys a socket may have connections with.
const maxTransports = 8

// transport carries the connections that were told of one pair of keys: that of
// stateless resets and that of connection ids.
type transport struct {
	*quic.Transport

	conn *udpConn
	keys *secrets.Keys
}

func newTransport(conn *udpConn, keys *secrets.Keys) *transport {
	reset := quic.StatelessResetKey(keys.Reset)
	return &transport{conn: conn, keys: keys, Transport: &quic.Transport{
		Conn:                  conn,
		ConnectionIDGenerator: conn.ids,
		StatelessResetKey:     &reset,
	}}
}

// renew goes over to other keys for new connections, if they are others. No listener may
// be open on the socket.
func (u *udpSocket) renew(keys *secrets.Keys) error {
	if u.now.keys.Reset == keys.Reset && u.now.keys.ConnectionID == keys.ConnectionID {
		return nil
	}
	if len(u.before)+1 == maxTransports {
		return fmt.Errorf("the keys of resets and connection ids have changed %d times; they change with the next start", maxTransports)
	}
	ids, err := newConnIDs(keys.ConnectionID, origin{u.now.conn.ids.self.front, newGeneration()})
	if err != nil {
		return err
	}
	conn, err := u.now.conn.succeed(ids, keys.Reset)
	if err != nil {
		return err
	}
	u.before = append(u.before, u.now)
	u.now = newTransport(conn, keys)
	return nil
}

// close ends all connections, and then frees the address.
func (u *udpSocket) close() error {
	var errs []error
	all := append(slices.Clip(u.before), u.now)
	for _, t := range all {
		errs = append(errs, t.Close())
	}
	for _, t := range all { // of which nobody reads any more
		t.conn.resets.close()
	}
	// Transports do not close a socket that they were given.
	return errors.Join(append(errs, u.udp.Close())...)
}

// udpSockets are the UDP sockets of a front, one for each address. Several with
// SO_REUSEPORT would share the reading, but the kernel picks one by the client's
// address, so a client that moves arrives at a socket that does not know it. Two
// gained nothing on 2 cores (docs/benchmarks.md). One socket is one reader; the
// connections run on all cores.
type udpSockets struct {
	keys atomic.Pointer[secrets.Keys] // of QUIC; never nil
	hold time.Duration                // rekeyHold

	mu   sync.Mutex
	open map[string]*udpSocket // by name
}

// newUDPSockets has keys that nobody else knows.
func newUDPSockets() *udpSockets {
	t := &udpSockets{open: make(map[string]*udpSocket), hold: rekeyHold}
	var keys secrets.Keys
	for _, b := range [][]byte{keys.Token[:], keys.Reset[:], keys.ConnectionID[:]} {
		_, _ = rand.Read(b) // never fails
	}
	t.keys.Store(&keys)
	return t
}

// newGeneration tells one transport of a front from all others, in connection ids.
func newGeneration() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])
}

// get returns the socket for a listener, and opens it if need be. It must not be
// called twice at a time.
func (t *udpSockets) get(ctx context.Context, l *listener) (*udpSocket, error) {
	if u, err := t.share(ctx, l.socket); u != nil || err != nil {
		return u, err
	}
	terms, keys := l.terms.Load(), t.keys.Load()
	ids, err := newConnIDs(keys.ConnectionID, origin{frontID(terms.Front), newGeneration()})
	if err != nil {
		return nil, err
	}
	conn, err := listenUDP(ctx, terms.listener.Address, ids, keys.Reset, l.srv.log)
	if err != nil {
		return nil, err
	}
	u := &udpSocket{name: l.socket, udp: conn.UDPConn, now: newTransport(conn, keys), closed: make(chan struct{}), users: 1}
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
	err := u.close()
	t.mu.Lock()
	delete(t.open, u.name)
	t.mu.Unlock()
	close(u.closed)
	return err
}
