package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"imlb/backend/xmpp"
	"imlb/proxy/ws"
)

// wsLeg is a leg on a WebSocket (RFC 7395): each message is one element, the
// stream's header and end are the elements <open/> and <close/>.
//
// On a loop it shares buffers as streamLeg does.
type wsLeg struct {
	ws           *ws.Conn
	writeTimeout time.Duration
	looped       bool // on a loop writes do not wait, and the clock is spared

	// owned by the reader
	scan *xmpp.Scanner
	max  int          // bytes of a message
	err  error        // a message that was refused, after which there is but the end
	skip bool         // of that, more parts come
	over bool         // and the client has ended its stream since
	buf  *[chunk]byte // nil while nothing was read
	in   []byte       // the part of buf that is not taken apart yet
	next xmpp.Token   // that Ahead has taken
	msg  []byte       // what has come of a message that is not whole

	// owned by the writer
	out  *[chunk]byte // nil while nothing is kept
	kept []byte       // the messages in it, or elsewhere if they are longer
	ping bool         // and if none are, a ping is due
}

// frameSlack is how much longer than an element a message may be, so that it is
// the scanner that refuses what is too long, with a stream error.
const frameSlack = 1 << 10

// newWSLeg returns a leg that owns a WebSocket.
func newWSLeg(conn *ws.Conn, limits xmpp.Limits, writeTimeout time.Duration) *wsLeg {
	return &wsLeg{
		ws:           conn,
		writeTimeout: writeTimeout,
		scan:         xmpp.NewFrameScanner(limits),
		max:          limits.WithDefaults().MaxBytes + frameSlack,
	}
}

var (
	// errBinary: a message was not text (RFC 7395 §3.2).
	errBinary = &xmpp.StreamError{Condition: xmpp.BadFormat, Text: "messages must be text"}
	// errTooLong: a message was longer than an element may be.
	errTooLong = &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "message too long"}
)

// Next drops what follows a message that was refused, up to the end of the stream. It
// returns no token only when it has taken all of in apart.
func (l *wsLeg) Next() (xmpp.Token, error) {
	if tok := l.next; tok.Kind != xmpp.KindNone {
		l.next = xmpp.Token{}
		return tok, nil
	}
	told := l.err != nil // the caller has got it, and waits for the end
	for {
		if told && l.over {
			l.over = false
			return streamEnd(), nil
		}
		part, rest, err := l.ws.Next(l.in)
		l.in = rest
		switch {
		case l.err == nil && err != nil:
			return xmpp.Token{}, err
		case err != nil || part.Op == 0:
			return xmpp.Token{}, l.err
		case l.err != nil:
			l.over = l.over || l.closes(part)
			continue
		}
		var tok xmpp.Token
		tok, l.err = l.take(part)
		l.skip = l.err != nil && !part.Last
		if l.err == nil && tok.Kind != xmpp.KindNone {
			return tok, nil
		}
	}
}

// take makes a token of a part and those that came before, if the message is whole.
func (l *wsLeg) take(part ws.Part) (xmpp.Token, error) {
	msg, err := l.gather(part)
	if err != nil || !part.Last {
		return xmpp.Token{}, err
	}
	return l.token(msg)
}

// gather adds a part to those that came before, and returns the message if it is whole.
func (l *wsLeg) gather(part ws.Part) ([]byte, error) {
	msg := part.Payload
	switch {
	case part.Op != ws.Text:
		l.msg = nil
		return nil, errBinary
	case len(l.msg)+len(msg) > l.max:
		l.msg = nil
		return nil, errTooLong
	case !part.Last:
		l.msg = append(l.msg, msg...)
		return nil, nil
	case l.msg != nil:
		msg, l.msg = append(l.msg, msg...), nil
	}
	if !part.Compressed {
		return msg, nil
	}
	msg, err := ws.Inflate(msg, l.max)
	if err != nil {
		return nil, unpackError(err)
	}
	return msg, nil
}

// closes tells whether a part, after a message that was refused, ends the client's stream:
// it has been told why, and waits for the end of the WebSocket (RFC 7395 §3.6).
func (l *wsLeg) closes(part ws.Part) bool {
	if l.skip {
		l.skip = !part.Last
		return false
	}
	msg, err := l.gather(part)
	if err != nil || !part.Last {
		l.skip = !part.Last && err != nil
		return false
	}
	e, err := xmpp.ParseElement(msg)
	return err == nil && e.Is(xmpp.NSFraming, "close")
}

// unpackError makes an error of ws one of XMPP.
func unpackError(err error) error {
	if errors.Is(err, ws.ErrTooLong) {
		return errTooLong
	}
	return &xmpp.StreamError{Condition: xmpp.BadFormat, Text: err.Error()}
}

// token makes a token of a message.
func (l *wsLeg) token(msg []byte) (xmpp.Token, error) {
	tok, _, err := l.scan.Next(msg)
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

func (l *wsLeg) Fill() error {
	if l.buf == nil {
		l.buf = getChunk()
	}
	n, err := l.ws.Fill(l.buf[:])
	l.in = l.buf[:n]
	if err != nil {
		l.dropInput() // who waits holds nothing
		return err
	}
	return nil
}

func (l *wsLeg) Ahead() (ends bool, err error) { return ahead(l, &l.next) }

func (l *wsLeg) Write(tok xmpp.Token) error {
	if tok.Kind == xmpp.KindSpace {
		l.ping = true // instead of whitespace, which has no place between messages: RFC 7395 §3.8
		return nil
	}
	if l.out == nil {
		l.out = getChunk()
		l.kept = l.out[:0]
	}
	at := len(l.kept)
	out := ws.Begin(l.kept)
	switch tok.Kind {
	case xmpp.KindOpen:
		h, err := xmpp.ParseStreamHeader(tok.Raw)
		if err != nil {
			return fmt.Errorf("stream header: %w", err)
		}
		out = h.AppendFramingOpen(out)
	case xmpp.KindElement:
		out = xmpp.AppendSelfContained(out, tok.Raw)
	case xmpp.KindClose:
		out = xmpp.AppendFramingClose(out)
	case xmpp.KindNone, xmpp.KindSpace:
		return nil
	}
	if l.kept = l.ws.Seal(out, at, ws.Text); len(l.kept) >= chunk {
		return l.Flush()
	}
	return nil
}

func (l *wsLeg) Flush() error {
	switch {
	case len(l.kept) > 0: // finds as well whether the client is there
	case l.ping:
		l.kept = ws.AppendPing(l.kept)
	default:
		return nil
	}
	l.ping = false
	var err error
	if l.looped {
		err = l.ws.Send(l.kept)
	} else {
		err = l.ws.SendWithin(l.writeTimeout, l.kept)
	}
	l.dropOutput()
	return err
}

func (l *wsLeg) Restart(limits xmpp.Limits) {
	l.scan.Reset()
	l.SetLimits(limits)
}

func (l *wsLeg) SetLimits(limits xmpp.Limits) {
	l.scan.SetLimits(limits)
	l.max = limits.WithDefaults().MaxBytes + frameSlack
}

// CloseWrite does nothing: after <close/> both sides go on to the WebSocket's
// own closing handshake, which is part of Close.
func (l *wsLeg) CloseWrite() error { return nil }

func (l *wsLeg) Close() error {
	l.ws.Part(ws.Normal, "")
	err := l.ws.Close()
	l.dropInput()
	l.dropOutput()
	return err
}

// dropInput drops what was received, and gives the buffer back.
func (l *wsLeg) dropInput() {
	l.in = nil
	if l.buf != nil && !l.looped {
		chunks.Put(l.buf)
		l.buf = nil
	}
}

// dropOutput drops what is kept, and gives the buffer back.
func (l *wsLeg) dropOutput() {
	if l.looped {
		l.kept = l.out[:0]
		return
	}
	l.kept = nil
	if l.out != nil {
		chunks.Put(l.out)
		l.out = nil
	}
}

func (l *wsLeg) joinLoop(scratch []byte) {
	in := bytes.Clone(l.in)
	l.dropInput()
	l.dropOutput()
	l.looped, l.in = true, in
	l.buf, l.out = (*[chunk]byte)(scratch), (*[chunk]byte)(scratch[chunk:])
	l.kept = l.out[:0]
}

func (l *wsLeg) keepInput() { l.in = bytes.Clone(l.in) }

func (l *wsLeg) leaveLoop() {
	if !l.looped {
		return
	}
	l.keepInput()
	kept := l.kept
	l.looped, l.buf, l.out, l.kept = false, nil, nil, nil
	if len(kept) > 0 {
		l.out = getChunk()
		l.kept = append(l.out[:0], kept...)
	}
}
