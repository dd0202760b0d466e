package chatload

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"imlb/backend/xmpp"
)

// readSize is what is read from a connection at once. It is held while a session is idle.
const readSize = 4 << 10

// stream is a client's connection to a server. It belongs to one goroutine, but for
// Write, which belongs to one as well, and Close.
type stream struct {
	net.Conn
	scanner *xmpp.Scanner
	buf     []byte
	rest    []byte // of buf, not yet scanned
	bytes   int64  // that came
}

func newStream(c net.Conn) *stream {
	return &stream{Conn: c, scanner: xmpp.NewScanner(xmpp.Limits{MaxBytes: 1 << 20}), buf: make([]byte, readSize)}
}

// next returns the next token, which is valid until it is called again.
func (s *stream) next() (xmpp.Token, error) {
	for {
		tok, rest, err := s.scanner.Next(s.rest)
		if err != nil {
			return tok, fmt.Errorf("read the server's stream: %w", err)
		}
		if s.rest = rest; tok.Kind != xmpp.KindNone {
			return tok, nil
		}
		n, err := s.Read(s.buf)
		s.bytes += int64(n)
		if s.rest = s.buf[:n]; n == 0 && err != nil {
			return tok, err
		}
	}
}

// errClosed says that the server has ended the stream.
var errClosed = errors.New("the server has closed the stream")

// element returns the next element. A stream error is an error.
func (s *stream) element() (xmpp.Element, error) {
	for {
		tok, err := s.next()
		switch {
		case err != nil:
			return xmpp.Element{}, err
		case tok.Kind == xmpp.KindClose:
			return xmpp.Element{}, errClosed
		case tok.Kind != xmpp.KindElement:
			continue
		}
		if failure, ok := xmpp.ParseStreamError(tok.Raw); ok {
			return xmpp.Element{}, failure
		}
		return xmpp.ParseElement(tok.Raw)
	}
}

// write writes a whole text.
func (s *stream) write(text []byte) error {
	_, err := s.Write(text)
	return err
}

// open begins the stream, anew after TLS and SASL, and returns its features
// (RFC 6120 §4.3.2), which are valid until the next read.
func (s *stream) open(domain string) (xmpp.Element, error) {
	if len(s.rest) > 0 {
		return xmpp.Element{}, errors.New("the server says more than it was asked for")
	}
	s.scanner.Reset()
	header := append([]byte("<?xml version='1.0'?><stream:stream to='"), xmpp.AppendEscaped(nil, domain)...)
	header = append(header, "' version='1.0' xml:lang='en' xmlns='"+xmpp.NSClient+"' xmlns:stream='"+xmpp.NSStream+"'>"...)
	if err := s.write(header); err != nil {
		return xmpp.Element{}, err
	}
	features, err := s.element()
	if err == nil && features.Local() != "features" {
		err = fmt.Errorf("<%s/> instead of features", features.Local())
	}
	return features, err
}

// startTLS asks for TLS (RFC 6120 §5.4.2).
func (s *stream) startTLS(ctx context.Context, config *tls.Config) error {
	if err := s.write([]byte("<starttls xmlns='" + xmpp.NSTLS + "'/>")); err != nil {
		return err
	}
	e, err := s.element()
	switch {
	case err != nil:
		return err
	case !e.Is(xmpp.NSTLS, "proceed"):
		return fmt.Errorf("<%s/> instead of proceed", e.Local())
	case len(s.rest) > 0: // what came in clear must not count as having come in TLS
		return errors.New("the server says more before TLS")
	}
	return s.secure(ctx, config)
}

// secure makes TLS of the connection.
func (s *stream) secure(ctx context.Context, config *tls.Config) error {
	conn := tls.Client(s.Conn, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	s.Conn = conn
	return nil
}

// resumed tells whether the connection's TLS is the going on of an earlier one.
func (s *stream) resumed() bool {
	conn, ok := s.Conn.(*tls.Conn)
	return ok && conn.ConnectionState().DidResume
}

// by gives what follows so much time.
func (s *stream) by(d time.Duration) { _ = s.SetDeadline(time.Now().Add(d)) }
