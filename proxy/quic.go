package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Bounds of QUIC connections. Idle ones are kept by keepalives of ours, often
// enough for the NATs between; a peer that does not answer is given up after
// quicIdle.
const (
	quicIdle      = 2 * time.Minute
	quicKeepAlive = 25 * time.Second
	quicStreams   = 16 // sessions of one connection at a time
	quicWindow    = 64 << 10
	quicMaxWindow = 1 << 20
)

// Application error codes of QUIC (XEP-0467 defines none).
const (
	quicOK     = 0
	quicCutOff = 1 // a stream that ends before all of it was sent
)

// quicListener accepts QUIC connections and their streams (XEP-0467).
type quicListener struct {
	*listener
	socket *udpSocket
	inner  *quic.Listener
}

// listenQUIC opens a QUIC listener. What its handshakes go by are the terms at
// the time of each.
func (l *listener) listenQUIC(ctx context.Context) (*quicListener, error) {
	socket, err := l.srv.udp.get(ctx, l)
	if err != nil {
		return nil, err
	}
	l.limiter = socket.limiter
	t := l.terms.Load()
	current := t.tls.Clone()
	current.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.terms.Load().tls, nil }
	config := quicConfig(t.Timeouts.Handshake)
	config.GetConfigForClient = func(*quic.ClientInfo) (*quic.Config, error) {
		return quicConfig(l.terms.Load().Timeouts.Handshake), nil
	}
	inner, err := socket.transport.Listen(current, config)
	if err != nil {
		return nil, errors.Join(err, l.srv.udp.put(socket))
	}
	return &quicListener{listener: l, socket: socket, inner: inner}, nil
}

func quicConfig(handshake time.Duration) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshake,
		MaxIdleTimeout:                 quicIdle,
		KeepAlivePeriod:                quicKeepAlive,
		MaxIncomingStreams:             quicStreams,
		MaxIncomingUniStreams:          -1,
		InitialStreamReceiveWindow:     quicWindow,
		MaxStreamReceiveWindow:         quicMaxWindow,
		InitialConnectionReceiveWindow: quicWindow,
		MaxConnectionReceiveWindow:     quicMaxWindow,
		Allow0RTT:                      false, // SASL must not be replayed
	}
}

func (q *quicListener) addr() net.Addr { return q.inner.Addr() }

// close closes a listener that has no connections any more, and the socket if
// nobody else uses it.
func (q *quicListener) close() error {
	return errors.Join(q.inner.Close(), q.srv.udp.put(q.socket))
}

// serve accepts connections until ctx ends or the listener is retired, and returns
// when their sessions have ended. Connections of a retired listener go on with new
// streams, too.
func (q *quicListener) serve(ctx context.Context) {
	var conns sync.WaitGroup
	for {
		conn, err := q.inner.Accept(ctx)
		if err != nil {
			break
		}
		conns.Go(func() { q.serveConn(ctx, conn) })
	}
	_ = q.inner.Close() // no new connections; those that are open go on
	conns.Wait()
	if err := q.close(); err != nil && !errors.Is(err, net.ErrClosed) {
		q.srv.log.LogAttrs(ctx, slog.LevelWarn, "close QUIC listener",
			slog.String("listener", q.name()), slog.Any("error", err))
	}
}

// serveConn serves the streams of one connection, each a session of its own. A
// connection on which there is none for the time of a handshake is closed.
func (q *quicListener) serveConn(ctx context.Context, conn *quic.Conn) {
	unused := &idleTimer{after: q.terms.Load().Timeouts.Handshake}
	unused.timer = time.AfterFunc(unused.after, func() { _ = conn.CloseWithError(quicOK, "no streams") })
	defer unused.timer.Stop()

	var sessions sync.WaitGroup
	for {
		stream, err := conn.AcceptStream(ctx)
		if err != nil {
			break
		}
		unused.begin()
		sessions.Go(func() {
			defer unused.end()
			q.srv.session(ctx, q.listener, newQUICConn(conn, stream))
		})
	}
	sessions.Wait()
	_ = conn.CloseWithError(quicOK, "")
}

// idleTimer runs while nothing is in use.
type idleTimer struct {
	after time.Duration
	timer *time.Timer

	mu    sync.Mutex
	users int
}

func (t *idleTimer) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users++
	t.timer.Stop()
}

func (t *idleTimer) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users--
	if t.users == 0 {
		t.timer.Reset(t.after)
	}
}

// quicConn is one bidirectional stream as a net.Conn.
type quicConn struct {
	*quic.Stream
	conn *quic.Conn

	closed   atomic.Bool
	writing  sync.Mutex // held while a Write runs
	inWrite  atomic.Bool
	finished bool // guarded by writing: FIN or reset is sent
}

func newQUICConn(conn *quic.Conn, stream *quic.Stream) *quicConn {
	return &quicConn{Stream: stream, conn: conn}
}

func (c *quicConn) LocalAddr() net.Addr  { return c.conn.LocalAddr() }
func (c *quicConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Read reads from the stream; io.EOF is the peer's FIN.
func (c *quicConn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if err != nil && c.closed.Load() {
		err = net.ErrClosed
	}
	return n, err
}

// Write writes to the stream.
func (c *quicConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.finished || c.closed.Load() {
		return 0, net.ErrClosed
	}
	c.inWrite.Store(true)
	n, err := c.Stream.Write(p)
	c.inWrite.Store(false)
	if err != nil && c.closed.Load() {
		err = net.ErrClosed
	}
	return n, err
}

// CloseWrite sends a FIN after what was written.
func (c *quicConn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.finished {
		return nil
	}
	c.finished = true
	return c.Stream.Close()
}

// Close ends both directions. What was written still arrives, unless a Write was
// interrupted: then the peer gets a reset, because a FIN would make the torn end
// look whole. The peer is asked to stop sending.
func (c *quicConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	torn := c.inWrite.Load()
	err := c.Stream.SetDeadline(past) // wakes a Read and a Write
	if torn {
		c.Stream.CancelWrite(quicCutOff)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if !c.finished && !torn {
		_ = c.Stream.Close() // fails when the peer does not want more, which is fine
	}
	c.finished = true
	c.Stream.CancelRead(quicOK)
	return err
}
