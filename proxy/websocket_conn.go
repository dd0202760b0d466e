package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// wsConn is a WebSocket as a stream of bytes: what the messages hold, one after the
// other, whatever their bounds. What it writes are binary messages, as MQTT (§6 of
// its specification) and others ask for.
type wsConn struct {
	net.Conn // under ws: addresses, and the deadlines of reads and writes
	ws       *websocket.Conn
	// endless is the context of all reads and writes; see wsLeg.
	endless context.Context //nolint:containedctx // never ends, carries only values
	message io.Reader       // owned by the reader: what is left of a message; nil between two
	ended   atomic.Bool     // CloseWrite was called
}

// newWSConn returns a stream that owns ws. conn is the connection under it.
func newWSConn(ctx context.Context, ws *websocket.Conn, conn net.Conn) *wsConn {
	ws.SetReadLimit(-1) // a message is passed on while it comes
	return &wsConn{Conn: conn, ws: ws, endless: context.WithoutCancel(ctx)}
}

// Read reads from the message at hand, or waits for the next one.
func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			_, r, err := c.ws.Reader(c.endless)
			if err != nil {
				return 0, c.readError(err)
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if err == nil {
			return n, nil
		}
		c.message = nil
		if err != io.EOF { //nolint:errorlint // Read returns io.EOF itself at the end of a message
			return n, c.readError(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// readError is wsReadError. The closing handshake that CloseWrite began, and may just
// have finished, is an end in order as well.
func (c *wsConn) readError(err error) error {
	if c.ended.Load() && errors.Is(err, net.ErrClosed) {
		return io.EOF
	}
	return wsReadError(err)
}

// errParted: what is written comes too late, because the WebSocket has ended. How, its
// reader is told, and nobody else.
var errParted = errors.New("the WebSocket has ended")

// wsWriteError tells an end that the reader has seen from other errors in writing.
func wsWriteError(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return errParted
	}
	return err
}

// Write sends p as one message.
func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.ws.Write(c.endless, websocket.MessageBinary, p); err != nil {
		return 0, wsWriteError(err)
	}
	return len(p), nil
}

// CloseWrite ends the WebSocket in order; it has no half-close. The client may have
// ended it already, or at the same time.
func (c *wsConn) CloseWrite() error {
	c.ended.Store(true)
	end := c.ws.CloseNow
	if c.SetDeadline(time.Now().Add(lingerTime)) == nil {
		end = func() error { return c.ws.Close(websocket.StatusNormalClosure, "") }
	}
	if err := c.readError(end()); err != io.EOF { //nolint:errorlint // readError returns io.EOF itself
		return err
	}
	return nil
}

// Close cuts the connection off.
func (c *wsConn) Close() error { return c.ws.CloseNow() }
