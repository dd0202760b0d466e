package proxy

import (
	"errors"

	"imlb/proxy/loop"
	"imlb/proxy/ws"
)

// wsConn is what carries an opaque session on a WebSocket: a stream of bytes. What it
// writes are binary messages, as MQTT (§6 of its specification) and others ask for.
type wsConn struct {
	*ws.Conn
	session *session
}

// Part says to the client why its session ends. It tells whether the client knows, or has
// been told something else before.
func (c *wsConn) Part(e loop.Ending) bool {
	status, text := ws.Normal, ""
	if e.Cause != loop.EOF {
		end := c.session.relayEnding(e)
		switch {
		case errors.Is(e.Err, errCutOff):
			return false
		case end.reason.clientGone():
			return c.Closing()
		}
		status, text = end.webSocketStatus(), end.reason.String()
	}
	err := c.Shut(status, text)
	return err == nil || errors.Is(err, ws.ErrClosed)
}
