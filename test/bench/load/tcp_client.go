//go:build linux

package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// stall is how long nothing may happen before a measurement has failed.
const stall = 5 * time.Second

// tcpClient drives plain TCP connections, or WebSockets on them, in one loop. A workload
// is what it does when one of them is ready.
type tcpClient struct {
	spec      Spec
	window    *window
	pattern   *Pattern
	poller    *poller
	webSocket bool
	conns     []*tcpConn // by descriptor
	buf       []byte
	frame     []byte // that is sent
	tally     tally
	opened    uint64
	alive     time.Duration // when something was last done
}

// tcpConn is one connection of the client.
type tcpConn struct {
	fd    int
	ws    *webSocket // nil for plain TCP, and before it is asked for
	begin uint64     // the position in the pattern at which it begins
	seed  uint64
	sent  uint64 // bytes of the pattern
	got   uint64
	since time.Duration // when what it waits for was sent, or should have been
	ready bool          // it is connected
	queue []sending     // of a paced workload
}

// sending is one message under way.
type sending struct {
	intended time.Duration
	counts   bool // it was to be sent within the window
}

func newTCPClient(spec Spec, w *window) (*tcpClient, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	return &tcpClient{spec: spec, window: w, pattern: NewPattern(), poller: p, buf: make([]byte, pieceSize)}, nil
}

// close breaks all connections off.
func (c *tcpClient) close() {
	for _, conn := range c.conns {
		if conn != nil {
			c.drop(conn)
		}
	}
	c.poller.close()
}

func (c *tcpClient) drop(conn *tcpConn) {
	c.conns[conn.fd] = nil
	_ = unix.Close(conn.fd)
}

// open begins a connection.
func (c *tcpClient) open() (*tcpConn, error) {
	c.opened++
	fd, err := begin(c.spec.Addr, c.opened)
	if err != nil {
		return nil, err
	}
	if fd >= len(c.conns) {
		c.conns = append(c.conns, make([]*tcpConn, fd+1-len(c.conns))...)
	}
	conn := &tcpConn{fd: fd, seed: c.opened, begin: origin(c.opened), since: c.window.now()}
	c.conns[fd] = conn
	return conn, nil
}

// connect opens connections, greets the backend on each and, when it echoes, waits
// for that: from then on all of the way stands.
func (c *tcpClient) connect(n int, m mode) error {
	for range n {
		conn, err := c.open()
		if err != nil {
			return err
		}
		if err := c.poller.add(conn.fd, unix.EPOLLOUT); err != nil {
			return err
		}
	}
	return c.until(func(conn *tcpConn, _ uint32) (int, error) {
		if conn.ready {
			return 1, c.greeted(conn, m)
		}
		if c.webSocket {
			if open, err := c.upgrade(conn); err != nil || !open {
				return 0, err
			}
		}
		conn.ready = true
		if err := c.sendAll(conn, hello{m, conn.seed}.bytes()); err != nil {
			return 0, err
		}
		if err := c.poller.change(conn.fd, unix.EPOLLIN); err != nil || m == echo {
			return 0, err
		}
		return 1, nil
	}, n)
}

// upgrade asks for a WebSocket, then takes the answer, and tells whether it is open.
func (c *tcpClient) upgrade(conn *tcpConn) (open bool, err error) {
	if conn.ws == nil {
		if err := c.sendAll(conn, wsRequest(c.spec.Addr)); err != nil {
			return false, err
		}
		conn.ws = &webSocket{client: true}
		return false, c.poller.change(conn.fd, unix.EPOLLIN)
	}
	n, again, err := receive(conn.fd, c.buf)
	switch {
	case again:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("opening handshake: %w", err)
	case n == 0:
		return false, errors.New("the connection was closed in the opening handshake")
	}
	err = conn.ws.accepted(c.buf[:n])
	return conn.ws.open, err
}

// until serves connections until they have finished something n times together.
func (c *tcpClient) until(serve func(*tcpConn, uint32) (finished int, err error), n int) error {
	for n > 0 {
		err := c.turn(func(conn *tcpConn, events uint32) error {
			finished, err := serve(conn, events)
			n -= finished
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// greeted takes the echo of the hello.
func (c *tcpClient) greeted(conn *tcpConn, m mode) error {
	n, _, err := receive(conn.fd, c.buf)
	if err != nil {
		return fmt.Errorf("echo of the hello: %w", err)
	}
	got, err := c.payload(conn, n)
	if err != nil {
		return err
	}
	if !slices.Equal(got, hello{m, conn.seed}.bytes()) {
		return fmt.Errorf("the echo of the hello is %q", got)
	}
	return nil
}

// turn waits for connections that are ready and serves them.
func (c *tcpClient) turn(serve func(conn *tcpConn, events uint32) error) error {
	events, err := c.poller.wait(loopTick)
	if err != nil {
		return err
	}
	if len(events) > 0 {
		c.alive = c.window.now()
	} else if c.window.now()-c.alive > stall {
		return errors.New("nothing comes any more")
	}
	for _, e := range events {
		conn := c.conns[e.Fd]
		if conn == nil {
			continue
		}
		if err := serve(conn, e.Events); err != nil {
			return err
		}
	}
	return nil
}

// payload is what n bytes that came hold.
func (c *tcpClient) payload(conn *tcpConn, n int) ([]byte, error) {
	if conn.ws == nil {
		return c.buf[:n], nil
	}
	return conn.ws.unframe(c.buf[:n])
}

// sendAll sends what has to fit, as one message if it is on a WebSocket.
func (c *tcpClient) sendAll(conn *tcpConn, data []byte) error {
	if conn.ws != nil {
		c.frame = conn.ws.appendFrame(c.frame[:0], data)
		data = c.frame
	}
	n, err := send(conn.fd, data)
	if err == nil && n < len(data) {
		err = errors.New("no room for a message")
	}
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// sendMessage sends the next message of the pattern.
func (c *tcpClient) sendMessage(conn *tcpConn) error {
	data := c.pattern.At(conn.begin+conn.sent, c.spec.Size)
	conn.sent += uint64(len(data))
	return c.sendAll(conn, data)
}

// take reads and checks what came.
func (c *tcpClient) take(conn *tcpConn) (n int, err error) {
	n, again, err := receive(conn.fd, c.buf)
	switch {
	case again:
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("receive: %w", err)
	case n == 0:
		return 0, errors.New("the connection was closed")
	}
	got, err := c.payload(conn, n)
	if err != nil {
		return 0, err
	}
	if err := c.pattern.Check(conn.begin+conn.got, got); err != nil {
		return 0, err
	}
	conn.got += uint64(len(got))
	if conn.got > conn.sent && c.spec.Workload != "bulk-down" {
		return n, errors.New("more came back than was sent")
	}
	return n, nil
}

// roundTrips plays ping-pong on all connections.
func (c *tcpClient) roundTrips(context.Context) error {
	if err := c.connect(c.spec.Conns, echo); err != nil {
		return err
	}
	c.window.connect()
	for _, conn := range c.conns {
		if conn != nil {
			if err := c.ping(conn); err != nil {
				return err
			}
		}
	}
	for !c.window.over() {
		if err := c.turn(c.pong); err != nil {
			return err
		}
	}
	return nil
}

// webSocketRoundTrips does the same with messages on WebSockets.
func (c *tcpClient) webSocketRoundTrips(ctx context.Context) error {
	c.webSocket = true
	return c.roundTrips(ctx)
}

func (c *tcpClient) ping(conn *tcpConn) error {
	conn.since = c.window.now()
	return c.sendMessage(conn)
}

func (c *tcpClient) pong(conn *tcpConn, _ uint32) error {
	if _, err := c.take(conn); err != nil || conn.got < conn.sent {
		return err
	}
	if c.window.measuring() {
		c.tally.units++
		c.tally.latency.Record(c.window.now() - conn.since)
	}
	return c.ping(conn)
}

// connects opens connections, has one message echoed on each, and closes them.
func (c *tcpClient) connects(context.Context) error {
	c.window.connect()
	for range c.spec.Conns {
		if err := c.connectNext(); err != nil {
			return err
		}
	}
	for !c.window.over() {
		if err := c.turn(c.connected); err != nil {
			return err
		}
	}
	return nil
}

func (c *tcpClient) connectNext() error {
	conn, err := c.open()
	if err != nil {
		return err
	}
	return c.poller.add(conn.fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLET)
}

// connected asks on a connection that stands, and closes one that was answered. The
// request is a hello, and the pattern behind it.
func (c *tcpClient) connected(conn *tcpConn, events uint32) error {
	if !conn.ready {
		conn.ready = true
		request := append(hello{echo, conn.seed}.bytes(), c.pattern.At(conn.begin, c.spec.Size-helloSize)...)
		conn.sent = uint64(len(request))
		return c.sendAll(conn, request)
	}
	if events&^unix.EPOLLOUT == 0 {
		return nil
	}
	if err := c.takeAnswer(conn); err != nil || conn.got < conn.sent {
		return err
	}
	if c.window.measuring() {
		c.tally.units++
		c.tally.latency.Record(c.window.now() - conn.since)
	}
	c.drop(conn)
	return c.connectNext()
}

func (c *tcpClient) takeAnswer(conn *tcpConn) error {
	n, again, err := receive(conn.fd, c.buf)
	switch {
	case again:
		return nil
	case err != nil:
		return fmt.Errorf("receive: %w", err)
	case n == 0:
		return errors.New("the connection was closed before the answer")
	}
	for _, got := range c.buf[:n] {
		if want := c.answerByte(conn); got != want {
			return &MismatchError{Position: conn.got, Got: got, Want: want}
		}
		conn.got++
	}
	return nil
}

func (c *tcpClient) answerByte(conn *tcpConn) byte {
	if conn.got < helloSize {
		return hello{echo, conn.seed}.bytes()[conn.got]
	}
	return c.pattern.At(conn.begin+conn.got-helloSize, 1)[0]
}

// bulkDown reads what the backend pours.
func (c *tcpClient) bulkDown(context.Context) error {
	if err := c.connect(c.spec.Conns, pour); err != nil {
		return err
	}
	c.window.connect()
	for !c.window.over() {
		err := c.turn(func(conn *tcpConn, _ uint32) error {
			n, err := c.take(conn)
			if c.window.measuring() {
				c.tally.bytes += uint64(n) //nolint:gosec // a length
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// bulkUp pours, and in the end wants to hear that all of it came.
func (c *tcpClient) bulkUp(context.Context) error {
	if err := c.connect(c.spec.Conns, sink); err != nil {
		return err
	}
	c.window.connect()
	if err := c.each(func(conn *tcpConn) error { return c.poller.change(conn.fd, unix.EPOLLOUT) }); err != nil {
		return err
	}
	for !c.window.over() {
		if err := c.turn(c.pourUp); err != nil {
			return err
		}
	}
	err := c.each(func(conn *tcpConn) error {
		return errors.Join(unix.Shutdown(conn.fd, unix.SHUT_WR), c.poller.change(conn.fd, unix.EPOLLIN))
	})
	if err != nil {
		return fmt.Errorf("end of the stream: %w", err)
	}
	return c.until(func(conn *tcpConn, _ uint32) (int, error) { return 1, c.received(conn) }, c.spec.Conns)
}

func (c *tcpClient) pourUp(conn *tcpConn, _ uint32) error {
	n, err := send(conn.fd, c.pattern.At(conn.begin+conn.sent, pieceSize))
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	conn.sent += uint64(n) //nolint:gosec // a length
	if c.window.measuring() {
		c.tally.bytes += uint64(n) //nolint:gosec // a length
	}
	return nil
}

// received takes the sink's count.
func (c *tcpClient) received(conn *tcpConn) error {
	n, _, err := receive(conn.fd, c.buf)
	if err != nil {
		return fmt.Errorf("count of what came: %w", err)
	}
	if n != 8 || binary.BigEndian.Uint64(c.buf) != conn.sent {
		return fmt.Errorf("%d bytes were sent and the backend answers %x", conn.sent, c.buf[:n])
	}
	return c.poller.control(unix.EPOLL_CTL_DEL, conn.fd, 0)
}

func (c *tcpClient) each(do func(*tcpConn) error) error {
	for _, conn := range c.conns {
		if conn == nil {
			continue
		}
		if err := do(conn); err != nil {
			return err
		}
	}
	return nil
}
