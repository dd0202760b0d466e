package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/coder/websocket"

	"imlb/backend/xmpp"
)

// wsLeg is a leg on a WebSocket (RFC 7395): each message is one element, the
// stream's header and end are the elements <open/> and <close/>.
type wsLeg struct {
	ws           *websocket.Conn
	conn         net.Conn // under ws; its deadlines bound the reads and writes
	writeTimeout time.Duration
	// endless is the context of all reads and writes. Its end would close the
	// WebSocket, and nothing could be said to the client any more, so it has
	// none: the deadlines of conn bound what blocks.
	endless context.Context //nolint:containedctx // never ends, carries only values

	// owned by the reader
	scan *xmpp.Scanner
	msg  bytes.Buffer // the message that Fill brought
	full bool         // msg is not scanned yet

	// owned by the writer
	out []byte
}

// frameSlack is how much longer than an element a message may be, so that it is
// the scanner that refuses what is too long, with a stream error.
const frameSlack = 1 << 10

// newWSLeg returns a leg that owns ws. conn is the connection under it.
func newWSLeg(ctx context.Context, ws *websocket.Conn, conn net.Conn, maxBytes int, writeTimeout time.Duration) *wsLeg {
	ws.SetReadLimit(int64(maxBytes + frameSlack))
	return &wsLeg{
		ws:           ws,
		conn:         conn,
		writeTimeout: writeTimeout,
		endless:      context.WithoutCancel(ctx),
		scan:         xmpp.NewFrameScanner(xmpp.Limits{MaxBytes: maxBytes}),
	}
}

func (l *wsLeg) Next() (xmpp.Token, error) {
	if !l.full {
		return xmpp.Token{}, nil
	}
	l.full = false
	tok, _, err := l.scan.Next(l.msg.Bytes())
	if err != nil {
		return tok, err
	}
	switch tok.Kind {
	case xmpp.KindOpen:
		h, err := xmpp.ParseFramingOpen(tok.Raw)
		return header(h), err
	case xmpp.KindClose:
		return streamEnd(), nil
	case xmpp.KindNone, xmpp.KindElement, xmpp.KindSpace:
	}
	return tok, nil
}

// errBinary: a message was not text (RFC 7395 §3.2).
var errBinary = &xmpp.StreamError{Condition: xmpp.BadFormat, Text: "messages must be text"}

func (l *wsLeg) Fill() error {
	l.msg.Reset()
	if l.msg.Cap() > chunk {
		l.msg = bytes.Buffer{}
	}
	kind, r, err := l.ws.Reader(l.endless)
	if err != nil {
		return wsReadError(err)
	}
	if _, err := l.msg.ReadFrom(r); err != nil {
		return wsReadError(err)
	}
	if kind != websocket.MessageText {
		return errBinary
	}
	l.full = true
	return nil
}

// wsReadError turns the peer's close frame into io.EOF, unless it says that
// something went wrong.
func wsReadError(err error) error {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		return io.EOF
	default:
		if errors.Is(err, websocket.ErrMessageTooBig) {
			return &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "message too long"}
		}
		return err
	}
}

func (l *wsLeg) Write(tok xmpp.Token) error {
	l.out = l.out[:0]
	switch tok.Kind {
	case xmpp.KindOpen:
		h, err := xmpp.ParseStreamHeader(tok.Raw)
		if err != nil {
			return fmt.Errorf("stream header: %w", err)
		}
		l.out = h.AppendFramingOpen(l.out)
	case xmpp.KindElement:
		l.out = xmpp.AppendSelfContained(l.out, tok.Raw)
	case xmpp.KindClose:
		l.out = xmpp.AppendFramingClose(l.out)
	case xmpp.KindNone, xmpp.KindSpace:
		return nil // no whitespace between messages: RFC 7395 §3.8
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.writeTimeout)) // or it is closed, and Write says so
	err := l.ws.Write(l.endless, websocket.MessageText, l.out)
	if cap(l.out) > chunk {
		l.out = nil
	}
	if err != nil {
		return wsWriteError(err)
	}
	_ = l.conn.SetWriteDeadline(time.Time{}) // or a pong would be too late; who has got all may have closed it
	return nil
}

// Flush has nothing to do: a message is sent when it is written.
func (l *wsLeg) Flush() error { return nil }

func (l *wsLeg) Restart(maxBytes int) {
	l.scan.Reset()
	l.SetLimit(maxBytes)
}

func (l *wsLeg) SetLimit(maxBytes int) {
	l.scan.SetLimits(xmpp.Limits{MaxBytes: maxBytes})
	l.ws.SetReadLimit(int64(maxBytes + frameSlack))
}

// CloseWrite does nothing: after <close/> both sides go on to the WebSocket's
// own closing handshake, which is part of Close.
func (l *wsLeg) CloseWrite() error { return nil }

func (l *wsLeg) Close() error {
	if err := l.conn.SetDeadline(time.Now().Add(lingerTime)); err != nil {
		return l.ws.CloseNow()
	}
	return l.ws.Close(websocket.StatusNormalClosure, "")
}
