package ws

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// Transport is what carries a WebSocket: TCP, or TLS.
type Transport interface {
	net.Conn
	CloseWrite() error
}

// Config says how a WebSocket came out of its opening handshake.
type Config struct {
	// Early is what came after the handshake and was read with it.
	Early []byte
	// Deflate: permessage-deflate was agreed on, without context takeover.
	Deflate bool
	// OnlyBinary: what was agreed on has no messages of text.
	OnlyBinary bool
	// WriteTimeout bounds how long an answer to the peer's frames may block; 0 does not.
	// Who writes messages sets a deadline of its own.
	WriteTimeout time.Duration
	// Backlog knows what becomes of what is written. If it is nil, that is sent at once, and
	// a peer has all the time there is to answer a close frame.
	Backlog Backlog
}

// Backlog is the connection under everything.
type Backlog interface {
	// Pending returns how many bytes wait to be sent, where writing does not block. As long
	// as there are any, no pong is added to them.
	Pending() int
	// Await sets the deadlines for what the peer is sent last and for its answer, for which it
	// has a time from when it has got all.
	Await()
}

// Conn is a WebSocket. As a net.Conn it is a stream of bytes: what the messages hold, text
// or binary, one after the other, whatever their bounds; what it writes are binary
// messages. Its methods may be called from several goroutines, as those of any net.Conn.
// Part by part the messages can be had from Fill and Next, by one goroutine that calls no Read.
type Conn struct {
	Transport
	writeTimeout time.Duration
	backlog      Backlog

	reading sync.Mutex // of Read, which several may call
	early   []byte
	dec     decoder
	err     error     // after which nothing is read
	owed    []byte    // a pong that is not sent yet; empty for none
	extra   int64     // see Extra
	inflate *inflater // of Read; nil if nothing may be compressed

	mu   sync.Mutex // of writing: a frame is sent in one piece
	rest []byte     // of what a deadline has cut off
	sent bool       // the close frame
}

// New returns a WebSocket that owns t.
func New(t Transport, cfg Config) *Conn {
	c := &Conn{
		Transport: t, writeTimeout: cfg.WriteTimeout, backlog: cfg.Backlog,
		early: cfg.Early, dec: decoder{deflate: cfg.Deflate, binary: cfg.OnlyBinary},
	}
	if cfg.Deflate {
		c.inflate = &inflater{conn: c}
	}
	return c
}

// Deflates tells whether messages may be compressed.
func (c *Conn) Deflates() bool { return c.dec.deflate }

// Read reads what messages hold. It returns nothing, and no error, if that is not what has
// come, so that nobody is kept in it by sending pings. The peer's close frame is answered, and is io.EOF, unless
// it says that something went wrong, or else a *CloseError. The end of the connection
// without one is io.EOF, too. What is against the protocol is a *Violation, of which the
// peer was told.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.inflate != nil {
		return c.inflate.read(p)
	}
	n, err := c.Fill(p)
	return c.unframe(p[:n]), err
}

// Close closes the connection, and gives up what was read of a message.
func (c *Conn) Close() error {
	err := c.Transport.Close()
	if c.inflate != nil {
		c.reading.Lock() // nobody is kept in Read by a closed connection
		defer c.reading.Unlock()
		c.inflate.close()
	}
	return err
}

// unframe moves what is of messages to the beginning of p, and returns how much that is.
func (c *Conn) unframe(p []byte) int {
	n := 0
	for in := p; ; {
		part, rest, err := c.Next(in)
		if err != nil || part.Op == 0 {
			return n // the next read has the error
		}
		n += copy(p[n:], part.Payload)
		in = rest
	}
}

// Extra returns how many bytes were read that Read or Next did not return as they are: all
// headers and control frames, and what is compressed. Who reads may call it, when it has got
// all that came.
func (c *Conn) Extra() int64 { return c.extra }

// Fill reads frames, for Next.
func (c *Conn) Fill(p []byte) (int, error) {
	c.pay()
	switch {
	case c.err != nil:
		return 0, c.err
	case len(c.early) > 0:
		n := copy(p, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		c.extra += int64(n)
		return n, nil
	}
	n, err := c.Transport.Read(p)
	if n > 0 {
		c.extra += int64(n)
		return n, nil // an error will come again with the next read
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF): // TLS was not ended in order
		err = io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded) && c.Closing():
		err = io.EOF // the close frame is not answered
	}
	return 0, err
}

// Next returns the next part of a message in what Fill has read, and what follows. There
// is no part, and its Op is 0, when Fill has to be called first. The errors are those of
// Read. Of the pings that came with one Fill, the last is answered (RFC 6455 §5.5.3).
func (c *Conn) Next(in []byte) (part Part, rest []byte, err error) {
	for c.err == nil {
		part, rest, err := c.dec.Next(in)
		switch {
		case err != nil:
			c.refuse(err)
		case part.Op == 0:
			c.pay()
			return part, rest, nil
		case part.Op == opPing:
			c.owed = append(appendHeader(c.owed[:0], opPong, false, len(part.Payload)), part.Payload...)
		case part.Op == opClose:
			c.answer(part.Payload)
		case part.Op == opPong:
		default:
			if !part.Compressed {
				c.extra -= int64(len(part.Payload))
			}
			return part, rest, nil
		}
		in = rest
	}
	return Part{}, nil, c.err
}

// pay sends the pong that is owed. As long as there is no room for it, because the peer
// does not read, another ping may take its place.
func (c *Conn) pay() {
	if len(c.owed) == 0 || (c.backlog != nil && c.backlog.Pending() > 0) {
		return
	}
	c.limitWrite()
	_ = c.Send(c.owed) // a broken connection is found by the next read
	c.owed = c.owed[:0]
}

func (c *Conn) limitWrite() {
	if c.writeTimeout > 0 {
		_ = c.SetWriteDeadline(time.Now().Add(c.writeTimeout)) // or it is closed, and Send says so
	}
}

// answer notes and answers the peer's close frame (RFC 6455 §5.5.1).
func (c *Conn) answer(payload []byte) {
	err := parseClose(payload)
	var peer *CloseError
	if !errors.As(err, &peer) {
		c.refuse(err)
		return
	}
	c.err = err
	if s := peer.Status; s == Normal || s == GoingAway || s == NoStatus || c.Closing() {
		c.err = io.EOF
	}
	c.pay()
	c.limitWrite()
	_ = c.end(peer.Status, "") // it was the end already, or the connection is broken
}

// refuse ends the WebSocket because of a *Violation.
func (c *Conn) refuse(err error) {
	if c.err == nil {
		c.err = err
	}
	status := ProtocolError
	if v := (*Violation)(nil); errors.As(err, &v) {
		status = v.Status
	}
	c.pay()
	c.limitWrite()
	_ = c.end(status, "")
}

// Closing tells whether the close frame was sent.
func (c *Conn) Closing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// Send sends what Seal has made. When a deadline strikes after it has begun, the rest is kept, and
// sent before what is sent next.
func (c *Conn) Send(frames ...[]byte) error {
	_, err := c.send(frames...)
	return err
}

// Piece is how much of something long, in bytes, a peer has to take in the time of a write.
const Piece = 64 << 10

// SendWithin is Send to a peer that has that time for each piece, and so as often for all of it.
func (c *Conn) SendWithin(timeout time.Duration, p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent {
		return ErrClosed
	}
	for begun := false; len(p) > 0; {
		_ = c.SetWriteDeadline(time.Now().Add(timeout)) // or it is closed, and write says so
		piece := p[:min(len(p), Piece)]
		some, err := c.write(piece)
		if some {
			p = p[len(piece):] // write keeps what is left of the piece
		}
		if begun = begun || some; begun && errors.Is(err, os.ErrDeadlineExceeded) {
			c.rest = append(c.rest, p...)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// send is Send, and tells whether the frames are on their way: they were sent, or begun.
func (c *Conn) send(frames ...[]byte) (begun bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent {
		return false, ErrClosed
	}
	return c.write(frames...)
}

// write sends what is left, and then the frames; under mu.
func (c *Conn) write(frames ...[]byte) (begun bool, err error) {
	if len(c.rest) > 0 {
		n, err := c.Transport.Write(c.rest)
		if c.rest = c.rest[n:]; err != nil {
			return false, err
		}
		c.rest = nil
	}
	for i, p := range frames {
		if len(p) == 0 {
			continue
		}
		n, err := c.Transport.Write(p)
		begun = begun || n > 0
		switch {
		case err == nil:
		case begun && errors.Is(err, os.ErrDeadlineExceeded):
			c.rest = slices.Concat(append([][]byte{p[n:]}, frames[i+1:]...)...)
			return true, err
		default:
			return false, err
		}
	}
	return true, nil
}

// end sends a close frame, unless one was sent.
func (c *Conn) end(status Status, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent {
		return ErrClosed
	}
	c.sent = true
	_, err := c.write(appendClose(nil, status, reason))
	return err
}

// chunk is what is put together to be written at once.
const chunk = 4 << 10

//nolint:gochecknoglobals // buffers are shared by all sessions of the process
var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

func getChunk() *[chunk]byte {
	buf, ok := chunks.Get().(*[chunk]byte)
	if !ok {
		return new([chunk]byte)
	}
	return buf
}

// Write sends p as a binary message. Of a large one, the header goes with the beginning. When a
// deadline strikes in the middle, all of p counts as written: see Send.
func (c *Conn) Write(p []byte) (int, error) {
	buf := getChunk()
	defer chunks.Put(buf)
	var begun bool
	var err error
	if c.packs(len(p)) {
		begun, err = c.send(c.Seal(append(Begin(buf[:0]), p...), 0, Binary))
	} else {
		head := appendHeader(buf[:0], Binary, false, len(p))
		n := copy(buf[len(head):], p)
		begun, err = c.send(buf[:len(head)+n], p[n:])
	}
	if !begun {
		return 0, err
	}
	return len(p), err
}

// Begin appends room for the header of a message, the payload of which is to be appended
// next, before Seal is called.
func Begin(dst []byte) []byte { return append(dst, make([]byte, headerRoom)...) }

// Seal makes a message of what b has after Begin was called for b[:at], compressed where
// that is worth it.
func (c *Conn) Seal(b []byte, at int, op Op) []byte {
	payload := b[at+headerRoom:]
	if c.packs(len(payload)) {
		packed := deflated(payload)
		b = appendHeader(b[:at], op, true, len(packed))
		return append(b, packed...)
	}
	head := appendHeader(b[:at], op, false, len(payload))
	n := copy(b[len(head):], payload)
	return b[:len(head)+n]
}

// AppendPing appends a ping to what Send sends (RFC 6455 §5.5.2).
func AppendPing(dst []byte) []byte { return appendHeader(dst, opPing, false, 0) }

// packs tells whether a message of n bytes is compressed.
func (c *Conn) packs(n int) bool { return c.dec.deflate && n >= deflateMin }

// Shut begins the closing handshake (RFC 6455 §7.1.2), after which nothing is sent. Who
// reads gets io.EOF when the peer has answered, or has had time enough to; see Backlog. If
// there was a close frame before, the error is ErrClosed.
func (c *Conn) Shut(status Status, reason string) error {
	if c.Closing() {
		return ErrClosed
	}
	c.await()
	return c.end(status, reason)
}

func (c *Conn) await() {
	if c.backlog != nil {
		c.backlog.Await()
	}
}

// CloseWrite is Shut with Normal, since a WebSocket has no half-close. After a close frame,
// which may have answered the peer's, it ends the side of the connection.
func (c *Conn) CloseWrite() error {
	err := c.Shut(Normal, "")
	if errors.Is(err, ErrClosed) {
		_ = c.Transport.CloseWrite() // or the peer has closed it
		return nil
	}
	return err
}

// Part is Shut, and drops what still comes up to the peer's answer. It blocks, and must
// not be called while somebody reads.
func (c *Conn) Part(status Status, reason string) {
	c.await()
	err := c.end(status, reason)
	if errors.Is(err, ErrClosed) {
		err = nil // who was told before may still answer
	}
	for buf := make([]byte, 512); err == nil; {
		var n int
		n, err = c.Fill(buf)
		c.unframe(buf[:n])
	}
}
