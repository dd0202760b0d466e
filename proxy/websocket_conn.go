package proxy

import (
	"errors"
	"net"
	"time"

	"imlb/proxy/loop"
	"imlb/proxy/ws"
)

// wsConn is what carries an opaque session on a WebSocket: a stream of bytes. What it
// writes are binary messages, as MQTT (§6 of its specification) and others ask for.
type wsConn struct {
	*ws.Conn
	session *session
}

var _ loop.Meter = (*wsConn)(nil)

// Part says to the client why its session ends. It tells whether the client knows, or has
// been told something else before.
func (c *wsConn) Part(e loop.Ending) bool {
	status, text := ws.Normal, ""
	if e.Cause != loop.EOF {
		end := c.session.relayEnding(e)
		switch {
		case errors.Is(e.Err, errCutOff) && c.Closing(): // it has had its time
			return false
		case end.reason.clientGone():
			return c.Closing()
		}
		status, text = end.webSocketStatus(), end.reason.String()
	}
	err := c.Shut(status, text)
	return err == nil || errors.Is(err, ws.ErrClosed)
}

// metered has what limits the bytes of clients count what a WebSocket costs besides those that
// it carries, too. A relay on a loop does so by itself.
func metered(conn net.Conn, took func(n int) time.Duration) func(n int) time.Duration {
	c, ok := conn.(*wsConn)
	if !ok || took == nil {
		return took
	}
	told := int64(0)
	return func(n int) time.Duration {
		all := c.Extra()
		n += int(all - told)
		told = all
		return took(n)
	}
}

// extraBytes returns what tells how many bytes of a client came besides its tokens, or nil.
func extraBytes(l leg) func() int64 {
	switch l := l.(type) {
	case *wsLeg:
		return l.ws.Extra
	case *boshLeg:
		return l.conn.extraBytes
	}
	return nil
}
