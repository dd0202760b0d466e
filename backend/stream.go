package backend

import (
	"errors"
	"net"

	"imlb/backend/xmpp"
)

// readBytes is how much is read at a time.
const readBytes = 4096

// stream reads tokens from a connection.
type stream struct {
	conn    net.Conn
	scanner *xmpp.Scanner
	buf     []byte
	rest    []byte // of buf, not yet scanned
	lang    string // xml:lang of the client's stream header
}

func (s *stream) init(conn net.Conn, l xmpp.Limits) {
	s.conn = conn
	s.scanner = xmpp.NewScanner(l)
	s.buf = make([]byte, readBytes)
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
		n, err := s.conn.Read(s.buf)
		s.rest = s.buf[:n]
		if n == 0 && err != nil {
			return xmpp.Token{}, err
		}
	}
}

// restart makes the stream expect a new header, after SASL.
func (s *stream) restart(l xmpp.Limits) {
	s.scanner.SetLimits(l)
	s.scanner.Reset()
}

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
	out := reply.Append(nil)
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
	to, err := xmpp.ParseJID(header.To)
	if err != nil || to != s.node.domain {
		return &xmpp.StreamError{Condition: xmpp.HostUnknown}
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
