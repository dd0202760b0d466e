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

	"imlb/proxy/limit"
)

// Bounds of QUIC connections. Idle ones are kept by keepalives of ours, often
// enough for the NATs between; a peer that does not answer is given up after
// quicIdle. Windows cost nothing until they are used. That of a connection has room for
// all its sessions, so that those that are read do not wait for those that are not.
//
// A connection with one idle session takes 73 KiB: 47 on the heap, of which 8 are
// the relay's buffers and nearly all else is quic-go's and crypto/tls's, and 26 for
// the stacks of five goroutines, two of quic-go, one that accepts streams and two
// that relay. On TCP with TLS it is 30.
const (
	quicIdle      = 2 * time.Minute
	quicKeepAlive = 25 * time.Second
	quicStreams   = 16 // sessions of one connection at a time
	quicWindow    = 64 << 10
	quicMaxWindow = 1 << 20
	quicAllWindow = quicStreams * quicMaxWindow // of a connection
)

// Application error codes of QUIC (XEP-0467 defines none).
const (
	quicOK     = 0
	quicCutOff = 1 // a stream that ends before all of it was sent
	// quicRefused is the connection's: a limit refuses it. Before the handshake is done
	// there is CONNECTION_REFUSED for that (RFC 9000 §20.1). Or it is a stream's, of which
	// nothing was read.
	quicRefused = 2
	// quicLeft is the connection's, too: it has had sessions, and the front has waited long
	// enough for the client to close it. What the client has not read by then it will never
	// read, so it must not take that for an end in order.
	quicLeft = 3
)

// quicListener accepts QUIC connections and their streams (XEP-0467).
type quicListener struct {
	*listener
	socket *udpSocket
	tls    *tls.Config
	config *quic.Config

	arrivals arrivals

	mu      sync.Mutex     // held while inner is replaced
	inner   *quic.Listener // another one for each change of the keys
	retired bool
}

// listenQUIC opens a QUIC listener. What its handshakes go by are the terms at
// the time of each: certificates, ALPN protocols and timeouts.
func (l *listener) listenQUIC(ctx context.Context) (*quicListener, error) {
	socket, err := l.srv.udp.get(ctx, l)
	if err != nil {
		return nil, err
	}
	t := l.terms.Load()
	q := &quicListener{listener: l, socket: socket, tls: t.tls.Clone(), config: quicConfig(t.Timeouts.Handshake)}
	q.tls.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.terms.Load().tls, nil }
	q.config.GetConfigForClient = func(*quic.ClientInfo) (*quic.Config, error) {
		return quicConfig(q.handshakeTime()), nil
	}
	if err := q.listen(); err != nil {
		return nil, errors.Join(err, l.srv.udp.put(socket))
	}
	return q, nil
}

// listen begins to accept connections, with the token key of the time.
func (q *quicListener) listen() error {
	token := quic.TokenGeneratorKey(q.srv.udp.keys.Load().Token)
	// These are read by Listen, and by nothing else.
	t := q.socket.now
	t.TokenGeneratorKey = &token
	t.VerifySourceAddress = q.doubts
	t.ConnContext = q.begin
	inner, err := t.Listen(q.tls, q.config)
	if err == nil {
		q.inner = inner
	}
	return err
}

// rekey takes the keys of the time. Connections do not notice.
func (q *quicListener) rekey() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.retired {
		return nil
	}
	if err := q.inner.Close(); err != nil {
		return err
	}
	err := q.socket.renew(q.srv.udp.keys.Load())
	return errors.Join(err, q.listen()) // with the token key in any case
}

// accept returns the next connection. An error is final.
func (q *quicListener) accept(ctx context.Context) (*quic.Conn, error) {
	inner := q.current()
	for {
		conn, err := inner.Accept(ctx)
		if err == nil {
			return conn, nil
		}
		next := q.current()
		if next == inner {
			return nil, err
		}
		inner = next
	}
}

func (q *quicListener) current() *quic.Listener {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inner
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
		InitialConnectionReceiveWindow: quicAllWindow,
		MaxConnectionReceiveWindow:     quicAllWindow,
		Allow0RTT:                      false, // SASL must not be replayed
	}
}

func (q *quicListener) addr() net.Addr { return q.socket.udp.LocalAddr() }

// retire ends accepting connections; those that are open go on.
func (q *quicListener) retire() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.retired = true
	return q.inner.Close()
}

// close closes a listener that has no connections any more, and the socket if
// nobody else uses it.
func (q *quicListener) close() error {
	err := errors.Join(q.retire(), q.srv.udp.put(q.socket))
	q.arrivals.pending.Wait()
	return err
}

// serve accepts connections until ctx ends or the listener is retired, and returns
// when their sessions have ended. Connections of a retired listener go on with new
// streams, too.
func (q *quicListener) serve(ctx context.Context) {
	var conns sync.WaitGroup
	for {
		conn, err := q.accept(ctx)
		if err != nil {
			break
		}
		conns.Go(func() { q.serveConn(ctx, conn) })
	}
	_ = q.retire()
	conns.Wait()
	if err := q.close(); err != nil && !errors.Is(err, net.ErrClosed) {
		q.srv.log.LogAttrs(ctx, slog.LevelWarn, "close QUIC listener",
			slog.String("listener", q.name()), slog.Any("error", err))
	}
}

// serveConn serves the streams of one connection, each a session of its own. A
// connection on which there is none for too long is closed.
func (q *quicListener) serveConn(ctx context.Context, conn *quic.Conn) {
	a := arrivalOf(conn)
	if !a.stand(conn) {
		return
	}
	var sessions sync.WaitGroup
	var end error
	for {
		stream, err := conn.AcceptStream(ctx)
		if err != nil {
			end = err
			break
		}
		c := newQUICConn(conn, stream)
		c.admitted = a.open()
		sessions.Add(1)
		go q.srv.session(ctx, q.listener, c, func() {
			a.over(c.place)
			sessions.Done()
		})
	}
	sessions.Wait()
	a.farewell()
	a.left(ctx, end)
}

// quicConn is one bidirectional stream as a net.Conn.
type quicConn struct {
	*quic.Stream
	conn     *quic.Conn
	admitted *admission   // of the first stream; nil for others, and when it was used
	place    limit.Ticket // of the session, which leaves it to the connection

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
