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
	err  error        // a message that was refused, after which there are no others
	buf  *[chunk]byte // nil while nothing was read
	in   []byte       // the part of buf that is not taken apart yet
	msg  []byte       // what has come of a message that is not whole

	// owned by the writer
	out  *[chunk]byte // nil while nothing is kept
	kept []byte       // the messages in it, or elsewhere if they are longer
}

// frameSlack is how much longer than an element a message may be, so that it is
// the scanner that refuses what is too long, with a stream error.
const frameSlack = 1 << 10

// newWSLeg returns a leg that owns a WebSocket.
func newWSLeg(conn *ws.Conn, maxBytes int, writeTimeout time.Duration) *wsLeg {
	return &wsLeg{
		ws:           conn,
		writeTimeout: writeTimeout,
		scan:         xmpp.NewFrameScanner(xmpp.Limits{MaxBytes: maxBytes}),
		max:          maxBytes + frameSlack,
	}
}

var (
	// errBinary: a message was not text (RFC 7395 §3.2).
	errBinary = &xmpp.StreamError{Condition: xmpp.BadFormat, Text: "messages must be text"}
	// errTooLong: a message was longer than an element may be.
	errTooLong = &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "message too long"}
)

// Next drops what follows a message that was refused. It returns none only when it has
// taken all of in apart.
func (l *wsLeg) Next() (xmpp.Token, error) {
	for {
		part, rest, err := l.ws.Next(l.in)
		l.in = rest
		switch {
		case l.err == nil && err != nil:
			return xmpp.Token{}, err
		case err != nil || part.Op == 0:
			return xmpp.Token{}, l.err
		case l.err != nil:
			continue
		}
		var tok xmpp.Token
		if tok, l.err = l.gather(part); l.err == nil && tok.Kind != xmpp.KindNone {
			return tok, nil
		}
	}
}

// gather adds a part to those that came before, and makes a token of the message if it is
// whole.
func (l *wsLeg) gather(part ws.Part) (xmpp.Token, error) {
	msg := part.Payload
	switch {
	case part.Op != ws.Text:
		l.msg = nil
		return xmpp.Token{}, errBinary
	case len(l.msg)+len(msg) > l.max:
		l.msg = nil
		return xmpp.Token{}, errTooLong
	case !part.Last:
		l.msg = append(l.msg, msg...)
		return xmpp.Token{}, nil
	case l.msg != nil:
		msg, l.msg = append(l.msg, msg...), nil
	}
	if part.Compressed {
		var err error
		if msg, err = ws.Inflate(msg, l.max); err != nil {
			return xmpp.Token{}, unpackError(err)
		}
	}
	return l.token(msg)
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

func (l *wsLeg) Write(tok xmpp.Token) error {
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
		return nil // no whitespace between messages: RFC 7395 §3.8
	}
	if l.kept = l.ws.Seal(out, at, ws.Text); len(l.kept) >= chunk {
		return l.Flush()
	}
	return nil
}

func (l *wsLeg) Flush() error {
	if len(l.kept) == 0 {
		return nil
	}
	if !l.looped {
		_ = l.ws.SetWriteDeadline(time.Now().Add(l.writeTimeout)) // or it is closed, and Send says so
	}
	err := l.ws.Send(l.kept)
	l.dropOutput()
	return err
}

func (l *wsLeg) Restart(maxBytes int) {
	l.scan.Reset()
	l.SetLimit(maxBytes)
}

func (l *wsLeg) SetLimit(maxBytes int) {
	l.scan.SetLimits(xmpp.Limits{MaxBytes: maxBytes})
	l.max = maxBytes + frameSlack
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
