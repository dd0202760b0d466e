package backend

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"imlb/backend/xmpp"
)

// A client that has little to say is read into a small buffer, which its session gives
// back when it sleeps; as long as there is more than that, a large one is borrowed.
const (
	smallRead = 512
	largeRead = 16 << 10
)

//nolint:gochecknoglobals // Pools are of use to all.
var (
	smallBuffers = sync.Pool{New: func() any { return new([smallRead]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeRead]byte) }}
)

// stream reads tokens from a connection.
type stream struct {
	conn    net.Conn
	scanner *xmpp.Scanner
	small   *[smallRead]byte // nil: not borrowed
	large   *[largeRead]byte // nil: not borrowed
	more    bool             // the last read has filled its buffer
	rest    []byte           // of a buffer, not yet scanned
	heard   bool             // something was read since this was last set to false
	lang    string           // xml:lang of the client's stream header
}

func (s *stream) init(conn net.Conn, l xmpp.Limits) {
	s.conn = conn
	s.scanner = xmpp.NewScanner(l)
}

// buffer returns the buffer for the next read. What was read before is not needed
// any more.
func (s *stream) buffer() []byte {
	switch {
	case s.more && s.large == nil:
		s.large, _ = largeBuffers.Get().(*[largeRead]byte)
	case !s.more:
		s.shrink()
	}
	if s.large != nil {
		return s.large[:]
	}
	if s.small == nil {
		s.small, _ = smallBuffers.Get().(*[smallRead]byte)
	}
	return s.small[:]
}

// shrink gives the large buffer back.
func (s *stream) shrink() {
	if s.large != nil {
		largeBuffers.Put(s.large)
		s.large = nil
	}
}

// release gives all buffers back. What was read is not needed any more.
func (s *stream) release() {
	s.shrink()
	if s.small != nil {
		smallBuffers.Put(s.small)
		s.small = nil
	}
	s.rest = nil
}

// next returns the next token that is not whitespace. It is valid until the next
// call. The error is a *xmpp.StreamError or that of the connection.
func (s *stream) next() (xmpp.Token, error) {
	for {
		for len(s.rest) > 0 {
			tok, rest, err := s.scanner.Next(s.rest)
			s.rest = rest
			if err != nil {
				return xmpp.Token{}, err
			}
			if tok.Kind != xmpp.KindNone && tok.Kind != xmpp.KindSpace {
				return tok, nil
			}
		}
		buf := s.buffer()
		n, err := s.conn.Read(buf)
		s.rest, s.more = buf[:n], n == len(buf)
		s.heard = s.heard || n > 0
		if n == 0 && err != nil {
			return xmpp.Token{}, err
		}
	}
}

// overPatience is how long is waited for what says that a connection is over: it has come long ago, if at all.
const overPatience = time.Millisecond

// over tells whether the connection is known to be over. What was read before is not needed any more, and the
// read deadline has to be set anew.
func (s *stream) over() bool {
	if len(s.rest) > 0 {
		return false
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(overPatience))
	buf := s.buffer()
	n, err := s.conn.Read(buf)
	s.rest, s.more = buf[:n], n == len(buf)
	return n == 0 && err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// restart makes the stream expect a new header, after SASL.
func (s *stream) restart(l xmpp.Limits) {
	s.scanner.SetLimits(l)
	s.scanner.Reset()
}

// headerBytes is about what a stream header takes.
const headerBytes = 320

// open reads the client's stream header (RFC 6120 §4.7) and answers with ours
// and the features. A *xmpp.StreamError is returned only after our header is
// out, as §4.9.1.2 asks for.
func (s *session) open(features []byte) error {
	tok, err := s.stream.next()
	var broken *xmpp.StreamError
	if err != nil && !errors.As(err, &broken) {
		return err
	}
	reply := xmpp.StreamHeader{From: s.node.opts.Domain, ID: randomID(), Lang: "en"}
	if err == nil {
		err = s.checkHeader(tok, &reply)
	}
	out := reply.Append(make([]byte, 0, headerBytes+len(features)))
	if err == nil {
		out = append(out, features...)
	}
	if _, writeErr := s.conn.Write(out); writeErr != nil {
		return writeErr
	}
	return err
}

func (s *session) checkHeader(tok xmpp.Token, reply *xmpp.StreamHeader) error {
	if tok.Kind != xmpp.KindOpen {
		return &xmpp.StreamError{Condition: xmpp.NotWellFormed}
	}
	header, err := xmpp.ParseStreamHeader(tok.Raw)
	if err != nil {
		return err
	}
	reply.To = header.From
	s.stream.lang = header.Lang
	s.from = header.From
	to, err := xmpp.ParseJID(header.To)
	if err != nil || to != s.node.domain {
		return &xmpp.StreamError{Condition: xmpp.HostUnknown}
	}
	if from, err := xmpp.ParseJID(header.From); err == nil && from.Domain() != to.Domain() {
		return &xmpp.StreamError{Condition: xmpp.InvalidFrom} // XEP-0388 §2.1
	}
	return nil
}

// nextElement returns the next element before login, where nothing else is
// allowed.
func (s *session) nextElement() ([]byte, error) {
	tok, err := s.stream.next()
	switch {
	case err != nil:
		return nil, err
	case tok.Kind == xmpp.KindElement:
		return tok.Raw, nil
	case tok.Kind == xmpp.KindClose:
		_, _ = s.conn.Write([]byte(xmpp.StreamEnd)) // the peer is leaving anyway
		return nil, errPeerLeft
	default:
		return nil, &xmpp.StreamError{Condition: xmpp.NotWellFormed}
	}
}

var errPeerLeft = errors.New("the client ended its stream before login")
