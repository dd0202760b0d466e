package test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/coder/websocket"
	"github.com/quic-go/quic-go"
)

// soakStreams is how many sessions of XMPP there are on one QUIC connection.
const soakStreams = 2

// soakXMPPKinds are sessions of XMPP that have logged in, on all that carries them.
func soakXMPPKinds() []soakKind {
	closed, reset, lost := []string{"client-closed"}, []string{"client-reset"}, []string{"node-lost"}
	inTLS := func(listener string, end func(*tls.Conn) error) func(context.Context, *gate) error {
		return func(ctx context.Context, g *gate) error { return soakTLS(ctx, g, listener, end) }
	}
	inWS := func(end func(*soakWS) error) func(context.Context, *gate) error {
		return func(ctx context.Context, g *gate) error { return soakWebSocket(ctx, g, end) }
	}
	inQUIC := func(end func(*soakQUIC) error) func(context.Context, *gate) error {
		return func(ctx context.Context, g *gate) error { return soakOverQUIC(ctx, g, end) }
	}
	return []soakKind{
		{"xmpps, half-closed", 4, "xmpps", 1, closed, inTLS("xmpps", leaveTLS)},
		{"xmpps, reset", 2, "xmpps", 1, reset, inTLS("xmpps", resetTLS)},
		{"starttls, half-closed", 4, "xmpp", 1, closed, inTLS("xmpp", leaveTLS)},
		{"starttls, reset", 2, "xmpp", 1, reset, inTLS("xmpp", resetTLS)},
		{"xmpp in wss, closed", 3, "wss", 1, closed, inWS((*soakWS).leave)},
		{"xmpp in wss, closed without a word", 2, "wss", 1, closed, inWS((*soakWS).part)},
		{"xmpp in wss, reset", 2, "wss", 1, reset, inWS((*soakWS).reset)},
		{"xmpp in wss, reset by the node", 1, "wss", 1, lost, inWS((*soakWS).lose)},
		{"xmpp in quic, half-closed", 2, "quic", soakStreams, closed, inQUIC((*soakQUIC).leave)},
		{"xmpp in quic, closed without a word", 1, "quic", soakStreams, closed, inQUIC((*soakQUIC).part)},
		{"xmpp in quic, streams reset", 1, "quic", soakStreams, reset, inQUIC((*soakQUIC).reset)},
		{"xmpp in quic, closed for an error", 1, "quic", soakStreams, reset, inQUIC((*soakQUIC).abort)},
		{"xmpp in quic, reset by the node", 1, "quic", soakStreams, lost, inQUIC((*soakQUIC).lose)},
	}
}

// soakTalk logs in on what carries a session, whose streams begin with that, and has
// messages come back.
func soakTalk(conn io.ReadWriter, header string) error {
	auth := base64.StdEncoding.EncodeToString([]byte("\x00alice\x00secret"))
	steps := [][2]string{
		{header, "</stream:features>"},
		{"<auth xmlns='" + nsSASL + "' mechanism='PLAIN'>" + auth + "</auth>", "<success xmlns='" + nsSASL + "'/>"},
		{header, "<bind xmlns='" + nsBind + "'/></stream:features>"},
	}
	for i, size := range []int{0, 100, 10_000} { // the last is longer than what is kept for one
		body := fmt.Sprint("<body>", i, strings.Repeat("x", size), "</body></message>")
		steps = append(steps, [2]string{"<message xmlns='jabber:client' to='" + endedName + "'>" + body, body})
	}
	for _, step := range steps {
		if _, err := io.WriteString(conn, step[0]); err != nil {
			return err
		}
		if err := skipTo(conn, step[1]); err != nil {
			return err
		}
	}
	return nil
}

// soakBye ends a stream, and waits for the other side's end of it.
func soakBye(conn io.ReadWriter, footer string) error {
	if _, err := io.WriteString(conn, footer); err != nil {
		return err
	}
	return skipTo(conn, footer)
}

// soakLoss has the node reset its connection, of which the client is told.
func soakLoss(conn io.ReadWriter, footer string) error {
	if _, err := io.WriteString(conn, "<message xmlns='jabber:client' to='"+endedName+"'><body>reset</body></message>"); err != nil {
		return err
	}
	got, err := readTo(conn, footer)
	if err == nil && !strings.Contains(got, "</stream:error>") {
		err = fmt.Errorf("read %.200q, want an error", got)
	}
	return err
}

// soakTLS is a session in TLS, from the first byte or after STARTTLS.
func soakTLS(ctx context.Context, g *gate, listener string, end func(*tls.Conn) error) error {
	var conn *tls.Conn
	var err error
	if listener == "xmpp" {
		var plain *net.TCPConn
		if plain, err = g.startTLS(ctx); err == nil {
			conn = tls.Client(plain, g.tls(endedName))
		}
	} else {
		conn, err = g.dialTLS(ctx, listener, endedName)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := soakTalk(conn, streamHeader); err != nil {
		return err
	}
	return end(conn)
}

// leaveTLS ends the stream and its half of the connection, and waits for the other.
func leaveTLS(conn *tls.Conn) error {
	if _, err := io.WriteString(conn, streamFooter); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	return skipTo(conn, streamFooter)
}

// resetTLS cuts the connection off.
func resetTLS(conn *tls.Conn) error { return reset(conn) }

// The ends of a stream in a WebSocket (RFC 7395 §3.4).
const (
	frameHeader = "<open xmlns='" + nsFraming + "' to='" + endedName + "' version='1.0'/>"
	frameFooter = "<close xmlns='" + nsFraming + "'/>"
)

// soakWS is a session in a WebSocket (RFC 7395).
type soakWS struct {
	net.Conn // what is in the messages
	ws       *websocket.Conn
	under    net.Conn // carries it
}

func soakWebSocket(ctx context.Context, g *gate, end func(*soakWS) error) error {
	conn, err := g.dial(ctx, "wss")
	if err != nil {
		return err
	}
	defer conn.Close()
	ws, err := g.upgrade(ctx, conn, "wss", "xmpp")
	if err != nil {
		return err
	}
	defer ws.CloseNow()
	s := &soakWS{websocket.NetConn(ctx, ws, websocket.MessageText), ws, conn}
	if err := soakTalk(s, frameHeader); err != nil {
		return err
	}
	return end(s)
}

// leave ends the stream, and waits for the front's end of the WebSocket.
func (s *soakWS) leave() error {
	if err := soakBye(s, frameFooter); err != nil {
		return err
	}
	return expectEnd(s)
}

// part ends the WebSocket alone.
func (s *soakWS) part() error { return s.ws.Close(websocket.StatusNormalClosure, "") }

// reset cuts the connection off.
func (s *soakWS) reset() error { return reset(s.under) }

// lose is told that the node is gone, and of the end.
func (s *soakWS) lose() error {
	if err := soakLoss(s, frameFooter); err != nil {
		return err
	}
	return expectEnd(s)
}

// soakQUIC are sessions on the streams of one QUIC connection (XEP-0467).
type soakQUIC struct {
	conn    *quic.Conn
	streams [soakStreams]*quic.Stream
}

func soakOverQUIC(ctx context.Context, g *gate, end func(*soakQUIC) error) error {
	conn, err := g.dialQUIC(ctx, "quic", "xmpp-client")
	if err != nil {
		return err
	}
	defer conn.CloseWithError(0, "")
	q := &soakQUIC{conn: conn}
	by, _ := ctx.Deadline()
	for i := range q.streams {
		if q.streams[i], err = conn.OpenStreamSync(ctx); err != nil {
			return err
		}
		_ = q.streams[i].SetDeadline(by)
		if err := soakTalk(q.streams[i], streamHeader); err != nil {
			return err
		}
	}
	return end(q)
}

// leave ends each stream, and waits for the front's end of it.
func (q *soakQUIC) leave() error {
	return q.each(func(s *quic.Stream) error {
		if err := soakBye(s, streamFooter); err != nil {
			return err
		}
		return errors.Join(s.Close(), expectEnd(s))
	})
}

// part ends the connection alone.
func (q *soakQUIC) part() error { return q.conn.CloseWithError(0, "") }

// reset cuts each stream off, and waits until the front has seen it.
func (q *soakQUIC) reset() error {
	return q.each(func(s *quic.Stream) error {
		s.CancelWrite(1)
		return expectEnd(s)
	})
}

// abort ends the connection for an error.
func (q *soakQUIC) abort() error { return q.conn.CloseWithError(1, "") }

// lose is told of each stream that its node is gone, and of its end.
func (q *soakQUIC) lose() error {
	return q.each(func(s *quic.Stream) error {
		if err := soakLoss(s, streamFooter); err != nil {
			return err
		}
		return errors.Join(s.Close(), expectEnd(s))
	})
}

// each does something with one stream after the other.
func (q *soakQUIC) each(do func(*quic.Stream) error) error {
	for _, s := range q.streams {
		if err := do(s); err != nil {
			return err
		}
	}
	return nil
}
