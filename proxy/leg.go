package proxy

import (
	"bytes"
	"net"
	"sync"
	"time"

	"imlb/backend/xmpp"
	"imlb/proxy/ws"
)

// leg is one side of a session as a sequence of tokens. Whatever the framing on
// the wire, the tokens have the form of RFC 6120. One goroutine reads and one
// writes; deadlines and Close may come from any.
type leg interface {
	// Next returns the next token that is at hand, or one of KindNone when
	// Fill has to be called first. Raw is valid until the next call of Next or
	// Fill. The error is a *xmpp.StreamError.
	Next() (xmpp.Token, error)
	// Fill waits for input until the read deadline of the connection. It
	// returns io.EOF when the peer has ended its side in order.
	Fill() error
	// Ahead waits as Fill does until the peer has said what Next will return next, and tells whether
	// that ends its stream. What Next has returned before is not valid any more.
	Ahead() (ends bool, err error)
	// Write takes a whole token; it may keep its bytes until Flush.
	Write(tok xmpp.Token) error
	// Flush sends what Write has kept.
	Flush() error
	// Restart expects a new stream header, of a stream with those limits.
	Restart(limits xmpp.Limits)
	// SetLimits sets those of the elements of the current stream that begin from now on.
	SetLimits(limits xmpp.Limits)
	// CloseWrite ends this side in order, after which the peer can still be
	// read. A transport that has no half-close leaves it to Close.
	CloseWrite() error
	// Close closes the connection and gives the buffers back. It must not be
	// called while another goroutine uses the leg.
	Close() error
}

// chunk is what one read may bring, and what is written at once. It holds some
// ten chat messages.
const chunk = 4 << 10

//nolint:gochecknoglobals // buffers are shared by all sessions of the process
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

func getChunk() *[chunk]byte {
	b, ok := chunks.Get().(*[chunk]byte)
	if !ok {
		return new([chunk]byte)
	}
	return b
}

// halfCloser is a connection whose sides can be ended one by one. TCP, TLS and
// our QUIC streams are.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// streamLeg is a leg on a byte stream: TCP, TLS or a QUIC stream.
//
// On a loop its buffers are parts of the loop's, which belongs to the handler that runs.
// When that returns, the leg has scanned all input and sent all output, or has copies.
type streamLeg struct {
	conn         halfCloser
	writeTimeout time.Duration
	looped       bool // on a loop writes do not wait, and the clock is spared

	// owned by the reader
	scan  *xmpp.Scanner
	begun bool         // the stream's header has come
	buf   *[chunk]byte // nil while nothing was read
	in    []byte       // the part of buf that is not scanned yet

	// owned by the writer
	out  *[chunk]byte // nil while nothing is kept
	kept int          // bytes of out in use
}

// newStreamLeg returns a leg that owns conn and expects a stream header.
func newStreamLeg(conn halfCloser, limits xmpp.Limits, writeTimeout time.Duration) *streamLeg {
	return &streamLeg{conn: conn, writeTimeout: writeTimeout, scan: xmpp.NewScanner(limits)}
}

// Next leaves out whitespace before a stream header. It belongs to the stream before,
// as a line end after its last element, and whoever gets it in the new one may take it
// for an error, because an XML declaration has to come first.
func (l *streamLeg) Next() (xmpp.Token, error) {
	for {
		tok, rest, err := l.scan.Next(l.in)
		l.in = rest
		if tok.Kind == xmpp.KindSpace && !l.begun {
			continue
		}
		l.begun = l.begun || tok.Kind == xmpp.KindOpen
		return tok, err
	}
}

func (l *streamLeg) Fill() error {
	if l.buf == nil {
		l.buf = getChunk()
	}
	n, err := l.conn.Read(l.buf[:])
	l.in = l.buf[:n]
	if n > 0 {
		return nil // an error will come again with the next read
	}
	l.dropInput() // who waits holds nothing
	return err
}

// Ahead does not scan: what comes next may belong to the stream that this one is restarted as.
func (l *streamLeg) Ahead() (ends bool, err error) {
	for {
		if l.in = bytes.TrimLeft(l.in, " \t\r\n"); len(l.in) > 0 {
			return bytes.HasPrefix(l.in, []byte("</")), nil
		}
		if err := l.Fill(); err != nil {
			return false, err
		}
	}
}

func (l *streamLeg) Write(tok xmpp.Token) error {
	if l.kept+len(tok.Raw) > chunk {
		if err := l.Flush(); err != nil {
			return err
		}
	}
	if len(tok.Raw) > chunk {
		return l.send(tok.Raw)
	}
	if l.out == nil {
		l.out = getChunk()
	}
	l.kept += copy(l.out[l.kept:], tok.Raw)
	return nil
}

func (l *streamLeg) Flush() error {
	if l.kept == 0 {
		return nil
	}
	err := l.send(l.out[:l.kept])
	l.dropOutput()
	return err
}

// send sends p. Of something long the peer has to take a piece in the time of a write, and not
// all of it.
func (l *streamLeg) send(p []byte) error {
	if l.looped {
		_, err := l.conn.Write(p)
		return err
	}
	for len(p) > 0 {
		if err := l.conn.SetWriteDeadline(time.Now().Add(l.writeTimeout)); err != nil {
			return err
		}
		n, err := l.conn.Write(p[:min(len(p), ws.Piece)])
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// discard drops what was received and not scanned. What a client sent in the
// clear after <starttls/> must not count as sent in TLS.
func (l *streamLeg) discard() { l.in = nil }

// switchTo goes on on another connection: TLS over the one that was.
func (l *streamLeg) switchTo(conn halfCloser) { l.conn = conn }

func (l *streamLeg) Restart(limits xmpp.Limits) {
	l.scan.Reset()
	l.begun = false
	l.SetLimits(limits)
}

func (l *streamLeg) SetLimits(limits xmpp.Limits) { l.scan.SetLimits(limits) }

func (l *streamLeg) CloseWrite() error { return l.conn.CloseWrite() }

func (l *streamLeg) Close() error {
	err := l.conn.Close()
	l.dropInput()
	l.dropOutput()
	return err
}

// dropInput drops what was received, and gives the buffer back.
func (l *streamLeg) dropInput() {
	l.in = nil
	if l.buf != nil && !l.looped {
		chunks.Put(l.buf)
		l.buf = nil
	}
}

// dropOutput drops what is kept, and gives the buffer back.
func (l *streamLeg) dropOutput() {
	l.kept = 0
	if l.out != nil && !l.looped {
		chunks.Put(l.out)
		l.out = nil
	}
}

// joinLoop: all legs of the loop read into one part of its buffer, and gather what they
// write in another.
func (l *streamLeg) joinLoop(scratch []byte) {
	in := bytes.Clone(l.in)
	l.dropInput()
	l.dropOutput()
	l.looped, l.in = true, in
	l.buf, l.out = (*[chunk]byte)(scratch), (*[chunk]byte)(scratch[chunk:])
}

func (l *streamLeg) keepInput() { l.in = bytes.Clone(l.in) }

func (l *streamLeg) leaveLoop() {
	if !l.looped {
		return
	}
	l.keepInput()
	kept := l.out[:l.kept]
	l.looped, l.buf, l.out = false, nil, nil
	if len(kept) > 0 {
		l.out = getChunk()
		copy(l.out[:], kept)
	}
}

// await returns the next token of a leg, waiting for input as long as the read
// deadline of its connection allows.
func await(l leg) (xmpp.Token, error) {
	for {
		tok, err := l.Next()
		if err != nil || tok.Kind != xmpp.KindNone {
			return tok, err
		}
		if err := l.Fill(); err != nil {
			return tok, err
		}
	}
}

// ahead has the next token of a leg come before its turn, unless it is there already, and tells
// whether it ends the stream.
func ahead(l leg, next *xmpp.Token) (ends bool, err error) {
	if next.Kind == xmpp.KindNone {
		*next, err = await(l)
		next.Raw = bytes.Clone(next.Raw) // what it was read into may serve others before its turn
	}
	return next.Kind == xmpp.KindClose, err
}

// post writes tokens and sends them.
func post(l leg, toks ...xmpp.Token) error {
	for _, tok := range toks {
		if err := l.Write(tok); err != nil {
			return err
		}
	}
	return l.Flush()
}

// element makes a token of an element.
func element(raw []byte) xmpp.Token { return xmpp.Token{Kind: xmpp.KindElement, Raw: raw} }

// header makes a token of a stream header.
func header(h xmpp.StreamHeader) xmpp.Token {
	return xmpp.Token{Kind: xmpp.KindOpen, Raw: h.Append(nil)}
}

// streamEnd makes a token that closes a stream.
func streamEnd() xmpp.Token { return xmpp.Token{Kind: xmpp.KindClose, Raw: []byte(xmpp.StreamEnd)} }
