package proxy

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"
)

// udpSocket is the socket of a QUIC listener. All connections of a listener go
// through it as long as they live, so one that is removed keeps it, and one that
// is added meanwhile on the same address has to share it.
type udpSocket struct {
	name      string // Listener.socket
	conn      net.PacketConn
	transport *quic.Transport
	limiter   *rate.Limiter
	closed    chan struct{} // closed when the address is free again
	users     int           // listeners; guarded by udpSockets.mu
}

// udpSockets are the UDP sockets of a front.
type udpSockets struct {
	mu   sync.Mutex
	open map[string]*udpSocket // by name
}

func newUDPSockets() *udpSockets { return &udpSockets{open: make(map[string]*udpSocket)} }

// get returns the socket for a listener, and opens it if need be. It must not be
// called twice at a time.
func (t *udpSockets) get(ctx context.Context, l *listener) (*udpSocket, error) {
	if u, err := t.share(ctx, l.socket); u != nil || err != nil {
		return u, err
	}
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, "udp", l.terms.Load().listener.Address)
	if err != nil {
		return nil, err
	}
	limiter := l.limiter
	u := &udpSocket{name: l.socket, conn: conn, limiter: limiter, closed: make(chan struct{}), users: 1}
	u.transport = &quic.Transport{
		Conn: conn,
		// Under load a client first has to show that its address is its own.
		VerifySourceAddress: func(net.Addr) bool { return limiter.Tokens() < 1 },
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
